use diffusion::{ImageRequest, ImageSize, Pipeline, PreviewMethod, PreviewTimes, Previews, SamplingParams};
use models::{Checkpoint, LoadOptions};
fn main() {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    let mut model = models::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap();
    for method in [PreviewMethod::Latent2Rgb, PreviewMethod::Vae] {
        let request = ImageRequest {
            prompt: "a fox on a green background".into(),
            negative_prompt: Some(" ".into()),
            params: SamplingParams { size: ImageSize { width: 128, height: 128 }, num_inference_steps: 20, guidance_scale: None, true_cfg_scale: 4.0, seed: 3 },
            previews: Some(Previews { method, times: PreviewTimes::Interval(1) }),
            extensions: Default::default(),
        };
        let mut state = model.prepare(&request).unwrap();
        for step in 1..=20 {
            drop(model.step(&mut [&mut state]).unwrap());
            let image = if step < 20 { model.preview(&state, method).unwrap() } else { break };
            std::fs::write(format!("/tmp/strip-{}-{step}-{}x{}.rgb", if method == PreviewMethod::Vae { "vae" } else { "rgb" }, image.size.width, image.size.height), &image.pixels).unwrap();
        }
        let image = model.decode(state).unwrap();
        std::fs::write(format!("/tmp/strip-final-20-{}x{}.rgb", image.size.width, image.size.height), &image.pixels).unwrap();
    }
}
