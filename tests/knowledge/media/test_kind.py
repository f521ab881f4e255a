"""Pictures and recordings are told by their bytes, whatever their name says."""

import pytest

from deepwell.knowledge.media.kind import media_kind, media_kind_of, media_type


@pytest.mark.parametrize(
    ("head", "kind", "type"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "picture", "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "picture", "image/jpeg"),
        (b"GIF89a" + bytes(20), "picture", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "picture", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "recording", "audio/wav"),
        (b"ID3\x04" + bytes(20), "recording", "audio/mpeg"),
        (b"\xff\xfb\x90\x00" + bytes(20), "recording", "audio/mpeg"),
        (b"\xff\xf1\x50\x80" + bytes(20), "recording", "audio/aac"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(20), "recording", "audio/mp4"),
        (b"OggS\x00" + bytes(20), "recording", "audio/ogg"),
        (b"fLaC" + bytes(20), "recording", "audio/flac"),
        (b"\x1aE\xdf\xa3" + bytes(20), "recording", "audio/webm"),
        (b"\xff\xfeh\x00i\x00", None, ""),  # a text in UTF-16
        (b"\xfe\xff\x00h\x00i", None, ""),
        (b"%PDF-1.7\n", None, ""),
        (b"PK\x03\x04" + bytes(20), None, ""),
        (b"GIF is a format of pictures.", None, ""),
        (b"RIFF\x00\x00\x00\x00AVI LIST", None, ""),
        (b"\xff", None, ""),
        (b"", None, ""),
    ],
)
def test_the_first_bytes_tell_the_kind(head, kind, type):
    assert (media_kind(head), media_type(head)) == (kind, type)


def test_a_file_that_is_not_there_is_of_no_kind(tmp_path):
    assert media_kind_of(tmp_path / "none.png") == (None, "")
