"""What a file is that stands in an image's place: told from its first bytes, so that an error can say it."""

import codecs
import re

HEAD = 1024
"""So many bytes tell what a file is."""

_IMAGES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavi", "AVIF"),
    (0, b"\0\0\1\0", "ICO"),
)
_CONVERT = "Convert it to PNG."
_UNPACK = "Replace it by the image that it holds."
_EXPORT = "Save its slices as PNG, or as TIFF of 16 bits."
_KINDS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Download the files: git lfs pull."),
    (0, b"%PDF", "a PDF document", "Save its images as PNG."),
    (0, b"%!PS", "a PostScript document", _CONVERT),
    (128, b"DICM", "a DICOM file", _EXPORT),
    (344, b"n+1\0", "a NIfTI volume", _EXPORT),
    (344, b"ni1\0", "the header of a NIfTI volume", _EXPORT),
    (0, b"NRRD", "an NRRD volume", _EXPORT),
    (0, b"ObjectType =", "a MetaImage volume", _EXPORT),
    (0, b"\x89HDF", "an HDF5 file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", "Save it as PNG, or as TIFF of 16 bits."),
    (0, b"8BPS", "a Photoshop document", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"II\xbc\x01", "a JPEG XR image", _CONVERT),
    (0, b"P7\n", "a PAM image", _CONVERT),
    (0, b"qoif", "a QOI image", _CONVERT),
    (0, b"icns", "an ICNS image", _CONVERT),
    (0, b"DDS ", "a DDS image", _CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PAR1", "a Parquet table", "Name it as the data set instead."),
    (0, b"\x1aE\xdf\xa3", "a video", "Save its frames as PNG."),
    (8, b"AVI ", "a video", "Save its frames as PNG."),
    (0, b"\x89PNG", "a PNG file that was copied as if it were text", "Copy it again, byte by byte."),
)
_HEIF = re.compile(rb"(heic|heix|heim|heis|hevc|hevx|mif1|msf1)")
_DICOM_BARE = re.compile(rb"[\x02\x08]\0[\0\x01\x05\x08\x16]\0", re.DOTALL)
_AGAIN = "Download the image again: a server may have sent this in its place."


def kind_of_file(head: bytes) -> tuple[str, str] | None:
    """What a file is, as in `it is a PDF document`, and what to do about it; None where its first bytes do not tell.

    `head` are its first `HEAD` bytes. Of an image of a format that is read it says that it is one.
    """
    for start, magic, name in _IMAGES:
        if head.startswith(magic, start):
            what = f"a {name} file by its first bytes, but a damaged one, or of a sort that is not read"
            return what, f"Replace it, or save it as {'PNG of 8 bits' if name == 'PNG' else 'PNG'}."
    for start, magic, what, do in _KINDS:
        if head.startswith(magic, start):
            return what, do
    if head.startswith(b"ftyp", 4):
        is_heif = _HEIF.match(head, 8)
        return ("a HEIC or HEIF image", "Convert it to PNG or JPEG.") if is_heif else ("a video", "Save its frames as PNG.")
    if _DICOM_BARE.match(head):
        return "a DICOM file without its preamble, it seems", _EXPORT
    return _text(head)


def _text(head: bytes) -> tuple[str, str] | None:
    """The same of a text; None where it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lstrip().lower()
    except UnicodeDecodeError:
        return None
    if "\0" in text or not text:
        return None
    if "<svg" in text:
        return "a drawing in SVG", _CONVERT
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "a page of HTML", _AGAIN
    if text.startswith("<"):
        return "text in XML", _AGAIN
    if text.startswith(("ivborw0kggo", "/9j/", "r0lgod", "data:image/", "uklgr")):
        return "an image written as text, in base64", "Save it as the bytes that it stands for."
    return "text", _AGAIN
