"""Prints the expected values of crates/bench/src/gmsd.rs: GMSD of pictures made by arithmetic.

    python tests/goldens/make_gmsd.py

It needs only numpy. `gmsd` follows the authors' MATLAB program (Xue et al. 2014, GMSD.m) line by line, with its
`conv2(…, 'same')`.
"""

import numpy as np


def conv2_same(image, kernel):
    """MATLAB's conv2(image, kernel, 'same'): zeros beyond the edge, the middle of the full convolution."""
    (height, width), (rows, columns) = image.shape, kernel.shape
    full = np.zeros((height + rows - 1, width + columns - 1))
    for row in range(rows):
        for column in range(columns):
            full[row : row + height, column : column + width] += kernel[row, column] * image
    top, left = rows // 2, columns // 2
    return full[top : top + height, left : left + width]


def gmsd(y1, y2):
    t, down_step = 170, 2
    dx = np.array([[1, 0, -1], [1, 0, -1], [1, 0, -1]]) / 3
    dy = dx.T
    ave_kernel = np.full((2, 2), 1 / 4)
    y1 = conv2_same(y1, ave_kernel)[::down_step, ::down_step]
    y2 = conv2_same(y2, ave_kernel)[::down_step, ::down_step]
    gradient1 = np.sqrt(conv2_same(y1, dx) ** 2 + conv2_same(y1, dy) ** 2)
    gradient2 = np.sqrt(conv2_same(y2, dx) ** 2 + conv2_same(y2, dy) ** 2)
    quality_map = (2 * gradient1 * gradient2 + t) / (gradient1**2 + gradient2**2 + t)
    return quality_map.std(ddof=1)


def luma(rgb):
    """MATLAB's rgb2gray, not rounded."""
    return rgb @ np.array([0.298936, 0.587043, 0.114021])


def picture(width, height, byte):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return luma((byte(x, y, c) % 256).astype(np.float64))


def waves(x, y, c):
    return x * x // 3 + 3 * x + 2 * y + 50 * c


def noise(x, y, c):
    return (x * 7919 + y * 104729 + c * 1299709) * (x + 3 * y + 1) // 7


for width, height in [(24, 16), (33, 21), (128, 128)]:
    whole = picture(width, height, waves)
    others = {
        "brighter": lambda x, y, c: waves(x, y, c) + 5,
        "noisier": lambda x, y, c: waves(x, y, c) + noise(x, y, c) % 9,
        "noise": noise,
        "grey": lambda x, y, c: 0 * x + 128,
    }
    for name, other in others.items():
        print(f"({width}, {height}, {name}, {gmsd(whole, picture(width, height, other)):.12f}),")
