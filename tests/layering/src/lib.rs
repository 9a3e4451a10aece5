//! Finds which files of a crate import from which: the crate's inner layers.
//!
//! A path is followed through re-exports to the file that defines the item. So a facade, i.e. a `mod.rs` that
//! re-exports its files' items, is not a layer. Tests are left out, because they may import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::prelude::DiGraphMap;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, Item, Token, UseTree};

/// The path of a module from its crate's root.
type ModulePath = Vec<String>;

/// The files of a crate, by their paths below its sources, each with the files that it imports from.
pub type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The imports of the crate whose root is `root`, such as `crates/server/src/lib.rs`.
///
/// # Errors
/// A file cannot be read or is not valid Rust.
pub fn imports(root: &Path) -> Result<Imports, Box<dyn std::error::Error>> {
    let mut sources = Sources { folder: root.parent().ok_or("a root has a folder")?.into(), modules: BTreeMap::new() };
    sources.read(root, Vec::new(), &mut |_, _| ())?;
    let mut imports = Imports::new();
    let mut found: Vec<(ModulePath, Vec<ModulePath>)> = Vec::new();
    Sources { folder: sources.folder.clone(), modules: BTreeMap::new() }.read(
        root,
        Vec::new(),
        &mut |module, items| {
            let mut paths = Paths::default();
            items.iter().filter(|item| !is_test(item)).for_each(|item| paths.visit_item(item));
            found.push((module.clone(), paths.found));
        },
    )?;
    for (module, paths) in found {
        let file = &sources.modules[&module].file;
        let of_file = imports.entry(file.clone()).or_default();
        let targets = paths.iter().filter_map(|path| sources.resolve(&module, path, 0));
        of_file.extend(targets.filter(|target| target != file));
    }
    Ok(imports)
}

/// The sets of at least two files that import each other in a circle.
pub fn circles(imports: &Imports) -> Vec<Vec<&Path>> {
    let mut graph: DiGraphMap<&Path, ()> = DiGraphMap::new();
    for (file, targets) in imports {
        targets.iter().for_each(|target| _ = graph.add_edge(file.as_path(), target.as_path(), ()));
    }
    let mut circles: Vec<_> = tarjan_scc(&graph).into_iter().filter(|files| files.len() > 1).collect();
    circles.iter_mut().for_each(|files| files.sort());
    circles.sort();
    circles
}

/// The meaning of a name in a module.
enum Name {
    /// An item that the module defines.
    Own,
    /// An item that is imported or re-exported under this name.
    Alias(ModulePath),
}

struct Module {
    file: PathBuf,
    /// The inner modules. They have their own namespace: a function may have the same name.
    inner: BTreeSet<String>,
    names: BTreeMap<String, Name>,
    globs: Vec<ModulePath>,
}

impl Module {
    fn knows(&self, name: &str) -> bool {
        self.inner.contains(name) || self.names.contains_key(name)
    }
}

struct Sources {
    folder: PathBuf,
    modules: BTreeMap<ModulePath, Module>,
}

impl Sources {
    /// Reads a module's file and those below it. `seen` is called with each module's items.
    fn read(
        &mut self,
        file: &Path,
        module: ModulePath,
        seen: &mut dyn FnMut(&ModulePath, &[Item]),
    ) -> Result<(), Box<dyn std::error::Error>> {
        let parsed = syn::parse_file(&std::fs::read_to_string(file)?)?;
        self.add(file, module, &parsed.items, seen)
    }

    fn add(
        &mut self,
        file: &Path,
        module: ModulePath,
        items: &[Item],
        seen: &mut dyn FnMut(&ModulePath, &[Item]),
    ) -> Result<(), Box<dyn std::error::Error>> {
        seen(&module, items);
        let relative = file.strip_prefix(&self.folder)?.to_owned();
        let mut read = Module { file: relative, inner: BTreeSet::new(), names: BTreeMap::new(), globs: Vec::new() };
        for item in items.iter().filter(|item| !is_test(item)) {
            match item {
                Item::Use(item) => leaves(&item.tree, &mut Vec::new(), &mut |path, name| match name {
                    Some(name) => _ = read.names.entry(name).or_insert(Name::Alias(path)),
                    None => read.globs.push(path),
                }),
                Item::Mod(item) => _ = read.inner.insert(item.ident.to_string()),
                _ => _ = defined(item).map(|name| read.names.insert(name, Name::Own)),
            }
        }
        self.modules.insert(module.clone(), read);
        for item in items.iter().filter(|item| !is_test(item)) {
            let Item::Mod(item) = item else { continue };
            let below = [&module[..], &[item.ident.to_string()]].concat();
            match &item.content {
                Some((_, items)) => self.add(file, below, items, seen)?,
                None => self.read(&self.file_of(&below), below, seen)?,
            }
        }
        Ok(())
    }

    fn file_of(&self, module: &ModulePath) -> PathBuf {
        let stem = module.iter().fold(self.folder.clone(), |folder, name| folder.join(name));
        let file = stem.with_extension("rs");
        if file.exists() { file } else { stem.join("mod.rs") }
    }

    /// The file that defines the item named by `path` in `module`; `None` for an item of another crate.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<PathBuf> {
        let (mut at, mut rest) = match path.first().map(String::as_str)? {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), &path[1..]),
            first if self.modules[module].knows(first) => (module.clone(), path),
            _ => return None,
        };
        while let Some(name) = rest.first() {
            rest = &rest[1..];
            let here = self.modules.get(&at)?;
            match here.names.get(name) {
                _ if name == "super" => _ = at.pop(),
                found if here.inner.contains(name) && (found.is_none() || !rest.is_empty()) => at.push(name.clone()),
                // Valid Rust has no circle of aliases. The depth limit stops at code that this parser misreads.
                Some(Name::Alias(path)) if depth < 16 => {
                    let path = [&path[..], rest].concat();
                    return self.resolve(&at, &path, depth + 1);
                }
                Some(_) => return Some(here.file.clone()),
                None => {
                    let through = |glob: &ModulePath| {
                        let path = [&glob[..], std::slice::from_ref(name), rest].concat();
                        self.resolve(&at, &path, depth + 1)
                    };
                    let found = (depth < 16).then(|| here.globs.iter().find_map(through)).flatten();
                    return Some(found.unwrap_or_else(|| here.file.clone()));
                }
            }
        }
        self.modules.get(&at).map(|module| module.file.clone())
    }
}

/// The name that an item defines, if a path can refer to it.
fn defined(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Whether an item is compiled only for tests.
fn is_test(item: &Item) -> bool {
    let attributes = match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    let is_test = |cfg: &syn::MetaList| cfg.tokens.to_string().starts_with("test");
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(is_test))
    })
}

/// Calls `leaf` with each path of a `use` and its local name, which is `None` for a glob.
fn leaves(tree: &UseTree, before: &mut ModulePath, leaf: &mut dyn FnMut(ModulePath, Option<String>)) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves(&path.tree, before, leaf);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => leaf(before.clone(), before.last().cloned()),
        UseTree::Name(name) => {
            leaf([&before[..], &[name.ident.to_string()]].concat(), Some(name.ident.to_string()));
        }
        UseTree::Rename(name) => {
            let path =
                if name.ident == "self" { before.clone() } else { [&before[..], &[name.ident.to_string()]].concat() };
            leaf(path, Some(name.rename.to_string()));
        }
        UseTree::Glob(_) => leaf(before.clone(), None),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, leaf)),
    }
}

/// The paths used in a module's items, without those in inner modules, which are visited on their own.
#[derive(Default)]
struct Paths {
    found: Vec<ModulePath>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {}

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A re-export is not an import of the facade.
        if matches!(item.vis, syn::Visibility::Inherited) {
            leaves(&item.tree, &mut Vec::new(), &mut |path, _| self.found.push(path));
        }
    }

    /// Ignores the paths in visibilities such as `pub(in path)`, which are not imports.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        // A single name is defined in the file, or imported by a `use`.
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        let arguments = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(mac.tokens.clone());
        let Ok(arguments) = arguments else { return };
        for argument in &arguments {
            // The parsed arguments do not live as long as the file's syntax tree.
            let mut inner = Paths::default();
            inner.visit_expr(argument);
            self.found.append(&mut inner.found);
        }
    }
}

/// The libraries and binaries of the workspace's crates, each with its root file.
///
/// # Errors
/// A folder cannot be read.
pub fn crates() -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut roots = BTreeMap::new();
    for folder in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates"))? {
        let folder = folder?;
        let name = folder.file_name().to_string_lossy().into_owned();
        for (root, name) in [("lib.rs", name.clone()), ("main.rs", format!("{name} (program)"))] {
            let root = folder.path().join("src").join(root);
            if root.exists() {
                roots.insert(name, root);
            }
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate with these files.
    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<PathBuf>> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let imports = imports(&folder.path().join("lib.rs")).unwrap();
        circles(&imports).into_iter().map(|circle| circle.into_iter().map(Path::to_owned).collect()).collect()
    }

    #[test]
    fn a_circle_is_found_through_what_a_facade_gives_out() {
        let root = ("lib.rs", "mod a; mod b; pub use a::{A, C as Renamed}; pub use b::*;");
        let b = ("b/mod.rs", "mod inner; pub use inner::B; pub struct Own(crate::Renamed);");
        let inner = ("b/inner.rs", "pub struct B;");
        let expected: Vec<Vec<PathBuf>> = vec![vec!["a.rs".into(), "b/mod.rs".into()]];
        assert_eq!(
            circles_of(&[root, ("a.rs", "use crate::Own; pub struct A; pub struct C(Own);"), b, inner]),
            expected
        );
        let in_call = ("a.rs", "pub struct A; pub struct C; fn f() { print!(\"{}\", crate::b::Own::new()) }");
        assert_eq!(circles_of(&[root, in_call, b, inner]), expected);
        let none = ("a.rs", "use crate::B; pub struct A; pub struct C(B); #[cfg(test)] mod tests { use crate::Own; }");
        assert_eq!(circles_of(&[root, none, b, inner]), Vec::<Vec<PathBuf>>::new());
    }
}
