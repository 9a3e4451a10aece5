//! `latentd generate`: generates pictures without a server.

use latentd::{Error, builtin_banner};
use omni::InputPictures;

use super::picture_flags::PictureFlags;

/// Generate pictures from a prompt
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd generate \"a slice of pizza\" -o pizza.png\n  latentd generate --model Qwen/Qwen-Image \"a cup of coffee\" --size 1328x1328"
)]
pub(super) struct Generate {
    #[command(flatten)]
    picture: PictureFlags,
}

impl Generate {
    pub(super) fn run(self) -> Result<(), Error> {
        self.picture.make(&builtin_banner("generate --model"), || Ok(InputPictures::default()))
    }
}
