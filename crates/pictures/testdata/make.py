"""Makes the pictures in this folder, with Pillow 13.0. Except for those at the end, all are 32x16, red on the left
and blue on the right, in formats that the image crate does not write."""

from PIL import Image

shown = Image.new("RGB", (32, 16), (200, 30, 30))
shown.paste((30, 60, 200), (16, 0, 32, 16))
green = Image.new("RGB", (32, 16), (0, 255, 0))

# Stored on its side, as cameras do: orientation 6 is a quarter turn clockwise.
turned = shown.transpose(Image.Transpose.ROTATE_90)
exif = Image.Exif()
exif[0x0112] = 6
turned.save("turned.jpg", quality=95, subsampling=0, exif=exif)
turned.save("turned.webp", lossless=True, exif=exif)
turned.save("turned.png", exif=exif)

# Several pictures, of which the first counts.
shown.save("animated.gif", save_all=True, append_images=[green])
shown.save("animated.webp", save_all=True, append_images=[green], lossless=True)
shown.save("animated.png", save_all=True, append_images=[green])
shown.save("two.mpo", save_all=True, append_images=[green], quality=95)

# CMYK with Adobe's inversion, without the profile that a print shop would add.
shown.convert("CMYK").save("cmyk.jpg", quality=95, subsampling=0)

# A palette whose red is opaque and whose blue is transparent.
palette = Image.new("P", (32, 16), 0)
palette.putpalette([200, 30, 30, 30, 60, 200])
palette.paste(1, (16, 0, 32, 16))
palette.save("palette.png", transparency=b"\xff\x00")

shown.save("shown.avif")
shown.save("shown.tiff")

# Large pictures of one colour, whose decoders allocate memory of their own: scans, planes, and animation canvases.
large = Image.new("RGB", (1024, 1024), (200, 30, 30))
large.save("scans.jpg", progressive=True, quality=95, subsampling=0)
large.convert("CMYK").save("scans_cmyk.jpg", progressive=True, quality=95, subsampling=0)
large.save("lossy.webp", quality=60)
clear, other = Image.new("RGBA", large.size, (200, 30, 30, 77)), Image.new("RGBA", large.size, (20, 230, 30, 177))
clear.save("clear.webp", quality=60)
clear.save("moving.webp", save_all=True, append_images=[other], quality=60)
clear.save("moving_lossless.webp", save_all=True, append_images=[other], lossless=True)
large.quantize(4).save("moving.gif", save_all=True, append_images=[other])
