//! `latentd edit`: edits pictures without a server.

use std::path::PathBuf;

use latentd::Error;
use omni::open_pictures;

use super::picture_flags::PictureFlags;
use latentd::with_flags;

/// Edit pictures by a prompt
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd edit --model Qwen/Qwen-Image-Edit-2511 --image cat.jpg \"make it night\" -o night.png\n  latentd edit --model Qwen/Qwen-Image-Edit-2511 --image cat.png --mask mask.png --prompt \"a red hat\"\n  latentd edit --model Qwen/Qwen-Image-Edit-2511 --image cat.png --image dog.png \"both on a sofa\""
)]
pub(super) struct Edit {
    /// A picture to edit: PNG, JPEG, WebP or GIF. Repeat the flag for more, up to the model's limit
    #[arg(long, required = true, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// A mask of the first picture's size; its transparent area is edited
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    #[command(flatten)]
    picture: PictureFlags,
}

const BANNER: &str = "No model was named: using the built-in one.\n\
    For one that edits: latentd edit --model Qwen/Qwen-Image-Edit-2511, or a folder in the diffusers layout.";

impl Edit {
    pub(super) fn run(self) -> Result<(), Error> {
        let (images, mask) = (self.image, self.mask);
        self.picture.make(BANNER, || open_pictures(&images, mask.as_deref()).map_err(with_flags))
    }
}
