"""A playlist is named as one, and nothing that it lists is opened."""

from pathlib import Path

import pytest

from liveavatar.audio.ingest import load_audio
from liveavatar.errors import InputError
from liveavatar.media.ffmpeg import probe_video
from liveavatar.media.playlist import refuse_playlist
from tests.audio.sounds import tone, write

LISTS = {
    "HLS": "#EXTM3U\n#EXTINF:3,\nother.wav\n#EXT-X-ENDLIST\n",
    "HLS with a mark of its encoding": "\ufeff#EXTM3U\nother.wav\n",
    "concat": "ffconcat version 1.0\nfile other.wav\n",
    "PLS": "[playlist]\nFile1=other.wav\n",
    "DASH": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>',
    "ASX": '<asx version="3.0"><entry><ref href="other.wav"/></entry></asx>',
    "WPL": '<?wpl version="1.0"?><smil><body><seq><media src="other.wav"/></seq></body></smil>',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_refused_as_one(tmp_path: Path, name: str) -> None:
    write(tmp_path / "other.wav", tone())
    path = tmp_path / "a.wav"
    path.write_text(LISTS[name])
    for read in (load_audio, probe_video):
        with pytest.raises(InputError, match=r"a\.wav: it is a playlist, which names other files; give one of them"):
            read(path)


def test_other_text_is_no_playlist(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("<?xml version='1.0'?><html>a playlist</html>")
    refuse_playlist(tmp_path / "a.wav")
    refuse_playlist(write(tmp_path / "b.wav", tone()))
