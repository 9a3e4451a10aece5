// The offered sizes: the model's own area in the usual shapes.

const SHAPES = [
  ["1:1", 1],
  ["4:3", 4 / 3],
  ["3:4", 3 / 4],
  ["16:9", 16 / 9],
  ["9:16", 9 / 16],
];

/** Latents are 8 pixels a side and patches 2 latents, so sizes are multiples of 16. */
const MULTIPLE = 16;

/** `[{ name, width, height }]`: the default size replaces the shape nearest to it, the others have the same area. */
export function shapes(defaultSize, maxPixels) {
  const [ownWidth, ownHeight] = parsed(defaultSize);
  const area = ownWidth * ownHeight;
  const isOwn = (ratio) => Math.abs((ratio * ownHeight) / ownWidth - 1) < 0.03;
  const offered = SHAPES.map(([name, ratio]) => {
    if (isOwn(ratio)) return { name, width: ownWidth, height: ownHeight };
    return { name, width: rounded(Math.sqrt(area * ratio)), height: rounded(Math.sqrt(area / ratio)) };
  });
  if (!SHAPES.some(([, ratio]) => isOwn(ratio))) offered[0] = { name: "default", width: ownWidth, height: ownHeight };
  return offered.filter(({ width, height }) => width * height <= maxPixels);
}

/** Width and height of `128x96`. */
export function parsed(size) {
  return size.split("x").map(Number);
}

function rounded(pixels) {
  return Math.max(MULTIPLE, Math.round(pixels / MULTIPLE) * MULTIPLE);
}
