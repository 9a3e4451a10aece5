// Example prompts.

/** Prompts that the built-in model was trained on: `demo::EXAMPLE_PROMPTS`, and some with more of its words. */
const BUILT_IN = [
  "a fox on a green background",
  "a cup of coffee on a brown background",
  "a slice of pizza on a red background",
  "a large panda on a pink background",
  "a unicorn on a purple background",
  "a house on a sky blue background",
  "a rocket on a blue background",
  "a cactus on a grey background",
  "a mushroom on a yellow background",
];

const GENERAL = [
  "a lighthouse on a cliff at dusk, long exposure",
  "a cup of coffee beside a rainy window, 35 mm photo",
  "a paper-cut fox in a birch forest",
  "a bookshop with a neon sign that reads “latentd”",
  "isometric cutaway of a tiny submarine, watercolour",
  "a snow leopard on a ridge, golden hour",
];

/** For a model that only edits. */
const EDITS = [
  "make it night",
  "turn it into a watercolour",
  "let it snow",
  "replace the background with a beach",
  "make it a pencil sketch",
  "add a red hat",
];

export function examplePrompts({ id, min_input_images: fewest }) {
  if (fewest > 0) return EDITS;
  return id.endsWith("builtin") ? BUILT_IN : GENERAL;
}
