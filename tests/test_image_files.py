"""Images of every sort show what a reader would see of them; what is no image, or no whole one, is told with its cause."""

import gzip
import os
import random
import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features

from osler.datasets.rows import image_below
from osler.errors import DataError
from osler.examples import thumbnail
from osler.file_kinds import kind_of_file
from osler.grey_levels import eight_bits
from osler.image_files import FORMATS, format_of, read_rgb, why_absent
from osler.images import blank_of, open_image

DOWN, ACROSS = np.mgrid[:36, :50]
GREY = (30 + 2 * ACROSS + DOWN).astype(np.uint8)
GREY[2:12, 4:20] = 240
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2 + 40], axis=-1)
ALPHA = np.repeat(np.where(np.arange(50) < 30, 255, 0)[None], 36, axis=0).astype(np.uint8)
GREY_3, WHITE = np.repeat(GREY[..., None], 3, axis=2), 255


def encoded(image, kind, **more):
    stream = BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


of = Image.fromarray


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, colour_type, *before):
    """A PNG of 8 or 16 bits, written by hand, with the chunks `before` its pixels."""
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8 * values.dtype.itemsize, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def tiff(values, photometric=1, sample_format=1, order="<", orientation=1, alpha=()):
    """A TIFF of one strip, uncompressed, written by hand; `alpha` is (1,) where the last channel is associated alpha."""
    data, channels = values.astype(values.dtype.newbyteorder(order)).tobytes(), 1 if values.ndim == 2 else values.shape[2]
    height, width = values.shape[:2]
    bits = (values.dtype.itemsize * 8,) * channels
    tags = {256: (width,), 257: (height,), 258: bits, 259: (1,), 262: (photometric,), 273: (0,), 274: (orientation,),
            277: (channels,), 278: (height,), 279: (len(data),), 339: (sample_format,) * channels}  # fmt: skip
    tags = dict(sorted({**tags, **({338: alpha} if alpha else {})}.items()))
    behind = 8 + 2 + 12 * len(tags) + 4
    extra, entries = b"", b""
    start = behind + sum(2 * len(value) for value in tags.values() if len(value) > 2)
    for tag, value in tags.items():
        value = (start,) if tag == 273 else value
        if len(value) > 2:
            entries += struct.pack(f"{order}HHII", tag, 3, len(value), behind + len(extra))
            extra += struct.pack(f"{order}{len(value)}H", *value)
        else:
            kind = (4, "I") if tag in (273, 279) else (3, "H")
            entries += struct.pack(f"{order}HHI", tag, kind[0], len(value))
            entries += struct.pack(f"{order}{len(value)}{kind[1]}", *value).ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + extra + data


@pytest.fixture
def shown(tmp_path):
    """What `open_image` makes of the bytes of a file, as whole numbers."""

    def read(content, name="x"):
        (tmp_path / name).write_bytes(content)
        return np.asarray(open_image(str(tmp_path / name))).astype(int)

    return read


@pytest.fixture
def refused(tmp_path):
    """What is said of the bytes of a file that is no whole image."""

    def read(content, name="x.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_image(str(tmp_path / name))
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        return str(caught.value)

    return read


# --- grey of more than 8 bits ---

CT = np.rint(GREY / 255 * 4095).astype(np.uint16)
DEEP = {
    "16 bits, all used": (png(GREY * np.uint16(257), 0), 1),
    "12 of 16 bits": (png(CT, 0), 1),
    "12 of 16 bits in a TIFF": (tiff(CT), 1),
    "12 of 16 bits, big-endian": (tiff(CT, order=">"), 1),
    "12 of 16 bits in a JPEG 2000": (encoded(of(CT), "JPEG2000"), 1),
    "12 bits in a PGM": (b"P5 50 36 4095\n" + CT.astype(">u2").tobytes(), 1),
    "32 bits without a sign": (tiff(GREY.astype(np.uint32) * 16_843_009), 1),
    "0 is white, 8 bits": (tiff(255 - GREY, photometric=0), 0),
    "0 is white, 16 bits": (tiff(65535 - GREY * np.uint16(257), photometric=0), 1),
    "interlaced": (encoded(of(CT), "PNG"), 1),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_grey_shows_as_the_same_grey_in_8_bits(shown, name):
    content, tolerance = DEEP[name]
    assert np.abs(shown(content) - GREY_3).max() <= tolerance


STRETCHED = np.repeat(np.rint((GREY.astype(float) - GREY.min()) / np.ptp(GREY) * 255)[..., None], 3, axis=2)
FROM_LOWEST = {
    "a CT kept with 32768 added": png((CT.astype(int) - 1024 + 32768).astype(np.uint16), 0),
    "Hounsfield units, 16 bits": tiff(CT.astype(np.int16) - 1024, sample_format=2),
    "Hounsfield units, big-endian": tiff(CT.astype(np.int16) - 1024, sample_format=2, order=">"),
    "fractions": tiff((GREY / 255).astype(np.float32), sample_format=3),
    "fractions where 0 is white": tiff((1 - GREY / 255).astype(np.float32), sample_format=3, photometric=0),
}


@pytest.mark.parametrize("name", FROM_LOWEST)
def test_signed_fractional_and_offset_grey_runs_from_the_lowest_to_the_highest(shown, name):
    assert np.abs(shown(FROM_LOWEST[name]) - STRETCHED).max() <= 1


def test_a_flat_deep_image_is_not_stretched_into_noise():
    flat = 40_000 + np.random.default_rng(0).integers(0, 200, (30, 30)).astype(np.uint16)
    assert np.ptp(eight_bits(flat)) <= 1
    assert set(eight_bits(np.zeros((3, 3), np.uint16)).ravel()) == {0}


def test_grey_by_hand():
    assert eight_bits(np.array([[0, 2048, 4095]], np.uint16)).tolist() == [[0, 128, 255]]
    assert eight_bits(np.array([[-100, 0, 100]], np.int32)).tolist() == [[0, 128, 255]]
    assert eight_bits(np.array([[np.nan, -np.inf, 5.0, 6.0, 7.0, np.inf]])).tolist() == [[0, 0, 0, 128, 255, 255]]
    tall = np.arange(400, dtype=np.uint16)[:, None]
    assert eight_bits(tall)[:, 0].tolist() == [round(value / 511 * 255) for value in range(400)]


def test_what_holds_no_number_or_would_show_as_black_is_told(refused):
    assert "it holds no finite value" in refused(tiff(np.full((9, 9), np.nan, np.float32), sample_format=3))
    twelve = np.rint(COLOUR / 255 * 4095).astype(np.uint16)
    for content in (png(twelve, 2), tiff(twelve, photometric=2)):
        assert "which would show as black: scale them up" in refused(content)


def test_colours_of_16_bits_show_where_they_use_them(shown):
    deep = COLOUR.astype(np.uint16) * 257
    for content in (png(deep, 2), tiff(deep, photometric=2), tiff(deep, photometric=2, order=">")):
        assert np.abs(shown(content) - COLOUR).max() <= 1


# --- transparency ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "ICO"])
def test_transparency_is_laid_over_white(shown, kind):
    more = {"WEBP": {"lossless": True, "exact": True}, "ICO": {"sizes": [(50, 36)]}}.get(kind, {})
    found = shown(encoded(of(np.dstack([COLOUR, ALPHA])), kind, **more))
    assert (found == np.where(ALPHA[..., None] == 0, WHITE, COLOUR)).all()


def test_a_transparent_grey_of_16_bits_and_associated_alpha_are_white_too(shown):
    deep = png(GREY * np.uint16(257), 0, chunk(b"tRNS", struct.pack(">H", 240 * 257)))
    assert np.abs(shown(deep) - np.where(GREY[..., None] == 240, WHITE, GREY_3)).max() <= 1
    associated = tiff(np.dstack([np.where(ALPHA == 0, 0, GREY).astype(np.uint8), ALPHA]), alpha=(1,))
    assert (shown(associated) == np.where(ALPHA[..., None] == 0, WHITE, GREY_3)).all()


def test_an_image_that_is_transparent_all_over_shows_its_colours(shown):
    none = np.zeros_like(GREY)
    assert (shown(encoded(of(np.dstack([COLOUR, none])), "PNG")) == COLOUR).all()
    assert (shown(encoded(Image.merge("LA", (of(GREY), of(none))), "PNG")) == GREY_3).all()
    palette = of(GREY).quantize(16)
    assert (shown(encoded(palette, "PNG", transparency=bytes(16))) == np.asarray(palette.convert("RGB"))).all()
    assert (shown(encoded(Image.new("RGBA", (9, 9), (9, 9, 9, 0)), "PNG")) == WHITE).all(), "there is nothing to see"


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_a_transparent_place_of_a_palette_is_white_however_it_is_said(shown, transparency):
    palette = of(COLOUR).quantize(16)
    wanted = np.where(np.asarray(palette)[..., None] == 3, WHITE, np.asarray(palette.convert("RGB")))
    assert (shown(encoded(palette, "PNG", transparency=transparency)) == wanted).all()


# --- orientation, frames, formats, names ---


def stored(values, orientation):
    """`values` as a camera that was held so would store them: the inverse of what a reader does, by the EXIF standard."""
    first = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1]}
    then = {5: values, 6: values[:, ::-1], 7: values[::-1, ::-1], 8: values[::-1]}
    return np.ascontiguousarray(first[orientation] if orientation < 5 else np.swapaxes(then[orientation], 0, 1))


def turned(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = of(stored(COLOUR, orientation))
    if kind == "TIFF":
        return encoded(image, kind, tiffinfo={274: orientation})
    if kind == "deflate":
        return encoded(image, "TIFF", tiffinfo={274: orientation}, compression="tiff_deflate")
    more = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[kind]
    return encoded(image, kind, exif=exif.tobytes(), **more)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_image_is_turned_upright_and_once(shown, tmp_path, orientation):
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "deflate"):
        found = shown(turned(kind, orientation))
        assert found.shape == COLOUR.shape, kind
        assert np.abs(found - COLOUR).max() <= 12, kind
        assert open_image(blank_of(str(tmp_path / "x"))).size == (50, 36)
    for grey in (GREY, GREY * np.uint16(257)):  # one strip of these is mapped into memory where it is opened by its path
        found = shown(tiff(stored(grey, orientation), orientation=orientation))
        assert found.shape == GREY_3.shape
        assert np.abs(found - GREY_3).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_counts(shown, kind):
    more = {"WEBP": {"lossless": True}, "MPO": {"quality": 100, "subsampling": 0}}.get(kind, {})
    first, second = of(GREY).convert("RGB"), of(255 - GREY).convert("RGB")
    found = shown(encoded(first, kind, save_all=True, append_images=[second], **more))
    assert np.abs(found - GREY_3).max() <= 4


@pytest.mark.parametrize("kind", ["AVIF", "ICO", "JPEG2000", "BMP", "PPM", "GIF", "TIFF"])
def test_a_format_that_is_read(shown, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    more = {"ICO": {"sizes": [(50, 36)]}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    content = encoded(of(GREY), kind, **more)
    assert np.abs(shown(content, "wrong.jpg") - GREY_3).max() <= 4
    assert format_of(content, "it") in FORMATS


def test_colours_of_a_printer_and_of_lab_show_as_colours(shown):
    lab = ImageCms.profileToProfile(of(COLOUR), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    assert np.abs(shown(encoded(lab, "TIFF")) - COLOUR).max() <= 16
    printed = of(COLOUR).convert("CMYK")
    assert np.abs(shown(encoded(printed, "TIFF")) - COLOUR).max() <= 1
    assert np.abs(shown(encoded(printed, "JPEG", quality=100)) - COLOUR).max() <= 12, "stored inverted, as Adobe does"


ODD = [
    "no_extension",
    "UPPER.PNG",
    "named.jpg",
    "a b.png",
    "é.png",
    "e\u0301.png",
    "a#b.png",
    "a%20b.png",
    "a?b=1.png",
    "a\nb.png",
]


@pytest.mark.parametrize("name", [*ODD, "back\\slash.png", "-dash.png", "图.png", "x" * 240 + ".png", "a:b.png", "*.png"])
def test_a_name_says_nothing_of_what_is_in_a_file(shown, name):
    assert (shown(encoded(of(COLOUR), "PNG"), name) == COLOUR).all()


def test_what_a_file_says_beside_its_pixels_is_not_handed_on(shown, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "PATIENT NAME")
    shown(encoded(of(COLOUR), "PNG", pnginfo=notes, icc_profile=b"PATIENT NAME"), "x")
    assert read_rgb(str(tmp_path / "x")).info == {}
    shown(encoded(of(COLOUR), "JPEG", comment=b"PATIENT NAME"), "x")
    assert read_rgb(str(tmp_path / "x")).info == {}
    assert b"PATIENT" not in encoded(read_rgb(str(tmp_path / "x")), "JPEG")
    assert thumbnail(str(tmp_path / "x")).startswith("data:image/jpeg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_beyond_the_limit_is_decoded_at_half_its_size_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("osler.image_files.MAX_PIXELS", 200_000)
    large = of(np.asarray(of(GREY).resize((600, 400))))
    large.save(tmp_path / "x.jpg", quality=95)
    found = open_image(str(tmp_path / "x.jpg"))
    assert found.size == (300, 200)
    assert np.abs(np.asarray(found.convert("L")).astype(int) - np.asarray(large.reduce(2))).mean() < 2
    large.save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"too large \(600 x 400 pixels\)"):
        open_image(str(tmp_path / "x.png"))


# --- what is no image, or no whole one ---

WHOLE = {
    "jpg": encoded(of(COLOUR), "JPEG"),
    "progressive.jpg": encoded(of(COLOUR), "JPEG", progressive=True),
    "png": encoded(of(COLOUR), "PNG"),
    "16.png": png(CT, 0),
    "palette.png": encoded(of(COLOUR).quantize(16), "PNG"),
    "tif": encoded(of(COLOUR), "TIFF"),
    "grey.tif": tiff(GREY),
    "deflate.tif": encoded(of(COLOUR), "TIFF", compression="tiff_deflate"),
    "lzw.tif": encoded(of(COLOUR), "TIFF", compression="tiff_lzw"),
    "webp": encoded(of(COLOUR), "WEBP"),
    "lossless.webp": encoded(of(COLOUR), "WEBP", lossless=True),
    "gif": encoded(of(GREY), "GIF"),
    "bmp": encoded(of(COLOUR), "BMP"),
    "jp2": encoded(of(COLOUR), "JPEG2000"),
    "pgm": encoded(of(GREY), "PPM"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", WHOLE)
def test_an_image_that_was_cut_short_is_told_wherever_it_was_cut(refused, shown, name):
    content = WHOLE[name]
    assert shown(content).shape == COLOUR.shape
    for tenth in range(1, 10):
        assert "cannot be decoded" in refused(content[: len(content) * tenth // 10], f"{tenth} {name}")
    assert "empty" in refused(b"", name)


@pytest.mark.parametrize("cut", [1, 4, 12, 13])
def test_a_png_that_lacks_its_last_bytes_is_told(refused, cut):
    assert "the file was cut short" in refused(WHOLE["png"][:-cut])


def test_any_flipped_bit_in_what_a_png_shows_is_told(refused):
    content, rng = WHOLE["png"], random.Random(0)
    start = content.index(b"IDAT") + 4
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.randrange(start, len(content) - 16)] ^= 1 << rng.randrange(8)
        assert "checksum of a chunk IDAT" in refused(bytes(flipped)) or "cannot be decoded" in refused(bytes(flipped))


@pytest.mark.parametrize("name", ["jpg", "webp", "jp2"])
def test_zeros_in_place_of_the_end_are_told_and_behind_it_are_not(refused, shown, name):
    values = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    kind = {"jpg": "JPEG", "webp": "WEBP", "jp2": "JPEG2000"}[name]
    content = encoded(of(values), kind)
    refused(content[: len(content) // 2] + bytes(len(content) // 2))
    if name == "jpg":
        assert shown(content + bytes(9000)).shape == values.shape
        assert shown(content + b"a trailer").shape == values.shape


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_1000_damaged_files_end_in_an_image_or_an_error(tmp_path):
    rng, told = random.Random(0), 0
    kinds = {**WHOLE, "avif": encoded(of(COLOUR), "AVIF")} if features.check("avif") else WHOLE
    for number in range(1000):
        name = list(kinds)[number % len(kinds)]
        damaged = bytearray(kinds[name])
        for _ in range(rng.choice((1, 1, 3, 20))):
            damaged[rng.randrange(min(len(damaged), rng.choice((300, 10**6))))] ^= 1 << rng.randrange(8)
        (tmp_path / "x").write_bytes(damaged)
        try:
            assert open_image(str(tmp_path / "x")).mode == "RGB"
        except DataError as error:
            told += str(error).startswith(f"{tmp_path / 'x'}: ")
    assert told > 300


def test_a_palette_image_without_a_palette_is_told(refused):
    assert "cannot be decoded" in refused(png(GREY, 3))


OTHERS = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a page of HTML": b"\n <!DOCTYPE html>\n<html><title>404</title>",
    "text in XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a drawing in SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text.": b'{"message": "Not Found"}',
    "an image written as text, in base64": b"iVBORw0KGgoAAAANSUhEUgAA",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a DICOM file.": bytes(128) + b"DICM\x02\0",
    "a DICOM file without its preamble": b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100",
    "a NIfTI volume": struct.pack("<i", 348) + bytes(340) + b"n+1\0",
    "compressed with gzip": gzip.compress(WHOLE["png"]),
    "a ZIP archive": b"PK\x03\x04" + bytes(30),
    "a HEIC or HEIF image": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a video": b"\0\0\0\x18ftypisom\0\0\0\0isommp41",
    "a NumPy array": b"\x93NUMPY\x01\0",
    "a JPEG XL image": b"\xff\x0a" + bytes(30),
    "a PNG file by its first bytes, but a damaged one": WHOLE["png"][:8] + bytes(30),
    "a PNG file that was copied as if it were text": WHOLE["png"].replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_image_is_called_by_its_name_and_says_what_to_do(refused, what):
    said = refused(OTHERS[what], "x.jpg")
    assert f"the image cannot be decoded (of no format that is read): it is {what}" in said
    assert kind_of_file(OTHERS[what])[1] in said


def test_of_noise_nothing_is_claimed(refused):
    noise = random.Random(1).randbytes(2000)
    assert kind_of_file(noise) is None
    assert "cannot be decoded (of no format that is read). Replace the file" in refused(noise)


# --- what is no file ---

SEVERAL = ("im1.png, im2.png", "im1.png;im2.png", "im1.png im2.JPG", "['im1.png', 'im2.png']", "a|b", "im1.png | im2.png")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder.png", "it is a folder. Name the image in it."),
        ("pipe.png", "it is a pipe or a device."),
        ("loop.png", "it is a link that leads to no file. Correct the link."),
        ("gone.png", "no such image file. Check the path and the images root"),
        ("deep\\x.png", "but there is "),
        ("x.PNG", "but there is "),
        ("a%20b.png", "but there is "),
        ("\u00e9.png", "but there is "),
        ("https://example.org/x.png", "it is an address, and nothing is downloaded. Download"),
        ("data:image/png;base64," + "A" * 5000, "it is an image written out as text. Save it as a file"),
        ("nul\0.png", "no such image file. Check the path"),
        *((name, "x.png'. Write the path as the file is called.") for name in ("x.jpg", "x", "x.dcm", "x.JPEG")),
        ("1.2.840", "1.2.840.JPG'. Write the path"),
        ("1.2.9", "no such image file. Check the path"),
        *((name, "it reads as several images in one name. Write several as a list") for name in SEVERAL),
        *((name, "no such image file. Check the path") for name in ("a, b", "a.png-b.png", "my x, of 2.png")),
    ],
)
def test_what_is_no_file_is_told_at_once_with_what_may_be_meant(tmp_path, name, why):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deep").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for one in ("deep/x.png", "x.png", "a b.png", "e\u0301.png", "1.2.840.JPG", "1.2.png"):
        (tmp_path / one).write_bytes(WHOLE["png"])
    with pytest.raises(DataError) as caught:
        open_image(f"{tmp_path}/{name}")
    assert "there is no such image file" in str(caught.value)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 800
    assert why_absent(str(tmp_path / "none")) is None


def test_a_root_that_is_a_file_is_said_to_be_one(tmp_path):
    for name in ("rows.csv", "x.png"):
        (tmp_path / name).write_bytes(WHOLE["png"])
    said = f"there is no image a.png below {tmp_path / 'rows.csv'}, which is a file and no folder. Name the folder"
    with pytest.raises(DataError, match=re.escape(said)):
        image_below(tmp_path / "rows.csv", "a.png")
    assert image_below(tmp_path / "rows.csv", str(tmp_path / "x.png")) == str(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.jpg, but there is '.*x\.png'\. Write the path"):
        image_below(tmp_path, "x.jpg")
    with pytest.raises(DataError, match="Name the folder that its path starts from"):
        image_below(tmp_path, "y.jpg")


def test_a_file_that_may_not_be_read_is_told_and_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(WHOLE["png"])

    def denied(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(DataError, match=r"x\.png: the image cannot be read \(Permission denied\)\. Check its rights\."):
        open_image(str(tmp_path / "x.png"))


def test_links_dots_and_absolute_paths_lead_to_the_image(tmp_path):
    (tmp_path / "x.png").write_bytes(WHOLE["png"])
    (tmp_path / "link.png").symlink_to("x.png")
    (tmp_path / "deep").mkdir()
    for name in ("link.png", "deep/../x.png"):
        assert (np.asarray(open_image(f"{tmp_path}/{name}")) == COLOUR).all()


def test_a_bomb_is_refused_by_a_process_that_has_no_room_for_it(tmp_path):
    rows = zlib.compress(bytes(3751) * 30_000, 9)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    code = (
        "import sys, resource; from osler.errors import DataError; from osler.images import open_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "try: open_image(sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "bomb.png"], capture_output=True, text=True, check=True)
    assert "the image is too large" in found.stdout
    assert found.stderr == ""


# --- real images ---


def test_every_real_image_opens(shared_data):
    files = [file for file in (shared_data / "real").rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp")]
    assert len(files) > 100
    for file in random.Random(0).sample(files, 100):
        assert min(open_image(str(file)).size) > 0
