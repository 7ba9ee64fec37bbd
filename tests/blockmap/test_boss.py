"""A BOSS is read and written over real HTTP, and its token stays where it is."""

import dataclasses
import itertools
import json
import math
import os
import pickle
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from blockmap.boss_server import BossServer

from nipype_blm.blockmap.boss import client
from nipype_blm.blockmap.boss.boxes import split_box
from nipype_blm.blockmap.boss.client import BossArray
from nipype_blm.blockmap.boss.neurodata import read_config
from nipype_blm.blockmap.boss.volumes import Volume, list_notices, parse_uri
from nipype_blm.blockmap.tokens import read_token, redact
from nipype_blm.errors import InputError

NAME = "collman/collman15v2/DAPI"
EXAMPLE = """\
[Default]
protocol = {protocol}
host = {host}
token = {token}

[Parallel]
collection = collman
experiment = collman15v2
channels = {channels}
x_range = 0,1000
y_range = 0,900
z_range = 0,99
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's own tokens, and proxies, are none of these tests'."""
    for name in list(os.environ):
        if name.startswith(("INTERN_", "BOSS_")) or name.lower().endswith(("_proxy", "_bundle")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server() -> Iterator[BossServer]:
    with BossServer() as server:
        yield server


@pytest.fixture
def voxels(server: BossServer) -> np.ndarray:
    """Those of the channel NAME."""
    made = np.random.default_rng(0).integers(1, 2**16, (12, 40, 50), dtype=np.uint16)
    return server.add(NAME, made)


@pytest.fixture
def volume(server: BossServer, tmp_path: Path, voxels: np.ndarray) -> Volume:
    """The channel NAME."""
    place = tmp_path / "token"
    place.write_text(f"{server.token}\n")
    return Volume(*NAME.split("/"), server.host, protocol="http", token=f"file:{place}")


def write_config(
    folder: Path, server: BossServer | None, channels: str = "DAPI", **changed: str
) -> Path:
    values = {"host": "nowhere.invalid", "token": "0123456789abcdef"}
    if server:
        values |= {"host": server.host, "token": server.token}
    path = folder / "neurodata.cfg"
    path.write_text(
        EXAMPLE.format(**{"protocol": "http", **values, "channels": channels} | changed)
    )
    return path


def refuse(function, *arguments) -> str:
    """Return the one sentence by which an InputError says what is wrong."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert len(caught.value.problems) == 1
    return str(caught.value)


# Configuration


def test_the_configuration_of_nd_multicore_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_config(tmp_path, None, "chan1,chan2,chan3,no,spaces", protocol="https")
    config = read_config(path)
    assert list(config.volumes) == ["chan1", "chan2", "chan3", "no", "spaces"]
    assert config.ranges == {"z": (0, 99), "y": (0, 900), "x": (0, 1000)}
    assert config.volumes["no"] == Volume(
        "collman", "collman15v2", "no", "nowhere.invalid", "https", 0, f"file:{path}"
    )


def test_the_protocol_of_the_configuration_is_the_one_used(
    server: BossServer, voxels: np.ndarray, tmp_path: Path
) -> None:
    config = read_config(write_config(tmp_path, server))
    assert config.volumes["DAPI"].protocol == "http"
    assert np.array_equal(BossArray(config.volumes["DAPI"])[:, :, :], voxels)


def test_what_a_configuration_may_leave_out(tmp_path: Path) -> None:
    path = write_config(tmp_path, None, " a , b ,")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(x for x in lines if "range" not in x and "protocol" not in x))
    config = read_config(path)
    assert config.ranges is None
    assert list(config.volumes) == ["a", "b"]
    assert config.volumes["a"].protocol == "https"


def test_no_channels_are_all_of_the_experiment(
    server: BossServer, voxels: np.ndarray, tmp_path: Path
) -> None:
    server.add("collman/collman15v2/synapsin", voxels)
    server.add("collman/other/not_mine", voxels)
    assert list(read_config(write_config(tmp_path, server, "")).volumes) == ["DAPI", "synapsin"]
    assert len(server.requests) == 1


def test_no_channels_where_there_are_none_is_an_error(
    server: BossServer, voxels: np.ndarray, tmp_path: Path
) -> None:
    server.channels.clear()
    assert "has no channel" in refuse(read_config, write_config(tmp_path, server, ""))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"token": "<token_key>"}, "placeholder"),
        ({"token": ""}, "no token"),
        ({"token": "two words"}, "no token"),
        ({"host": ""}, "no host"),
        ({"host": "https://api.bossdb.io"}, "no name of a host"),
        ({"protocol": "ftp"}, "neither https nor http"),
        ({"channels": "a/b"}, "expected letters"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    tmp_path: Path, changed: dict[str, str], told: str
) -> None:
    assert told in refuse(read_config, write_config(tmp_path, None, **changed))


@pytest.mark.parametrize("given", ["0", "5,5", "9,3", "a,b", "0,1,2", "0.5,3"])
def test_a_range_that_is_none_is_refused(tmp_path: Path, given: str) -> None:
    path = write_config(tmp_path, None)
    path.write_text(path.read_text().replace("0,900", given))
    assert "y_range" in refuse(read_config, path)


def test_two_ranges_of_three_are_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, None)
    path.write_text(path.read_text().replace("y_range = 0,900", ""))
    assert "no y_range" in refuse(read_config, path)


def test_a_file_that_is_no_configuration_is_refused_without_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "neurodata.cfg"
    path.write_text("[Default]\nsecret line of token\n")
    assert "secret" not in refuse(read_config, path)


def test_a_uri_has_the_forms_that_intern_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Volume("c", "e", "x", "api.bossdb.io")
    assert parse_uri("bossdb://c/e/x") == plain
    assert parse_uri("bossdb://c/e/x/3") == dataclasses.replace(plain, resolution=3)
    assert parse_uri("bossdb://http://h.org/c/e/x") == Volume("c", "e", "x", "h.org", "http")
    assert parse_uri("bossdb://localhost:80/c/e/x/1", protocol="http") == Volume(
        "c", "e", "x", "localhost:80", "http", 1
    )
    assert parse_uri("bossdb://h.org/c/e/x", host="i.org").host == "i.org"
    assert parse_uri("bossdb://c/e/x/3", resolution=0).resolution == 3
    assert parse_uri("bossdb://c/e/x/3", resolution=2).resolution == 2
    for wrong in ("c/e/x", "s3://c/e/x", "bossdb://c/e", "bossdb://c/e/x/y", "bossdb://"):
        assert "no volume of a BOSS" in refuse(parse_uri, wrong)


def test_a_uri_without_a_token_has_the_one_that_intern_would_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / ".intern/intern.cfg"
    config.parent.mkdir()
    config.write_text("[Default]\nprotocol = http\nhost = mine.org\ntoken = abc\n")
    assert parse_uri("bossdb://c/e/x") == Volume(
        "c", "e", "x", "mine.org", "http", token=f"file:{config}"
    )
    assert read_token(parse_uri("bossdb://c/e/x").token) == "abc"
    assert parse_uri("bossdb://https://other.org/c/e/x").token == "public"
    monkeypatch.setenv("INTERN_TOKEN", "def")
    assert parse_uri("bossdb://c/e/x") == Volume(
        "c", "e", "x", "api.bossdb.io", token="env:INTERN_TOKEN"
    )
    monkeypatch.setenv("BOSS_TOKEN", "ghi")
    assert parse_uri("bossdb://https://other.org/c/e/x").token == "env:BOSS_TOKEN"


def test_http_to_another_machine_is_told() -> None:
    assert "by http" in list_notices(Volume("c", "e", "x", "h.org", "http", token="env:T"))[0]
    assert not list_notices(Volume("c", "e", "x", "h.org", "https", token="env:T"))
    assert not list_notices(Volume("c", "e", "x", "h.org", "http"))
    for here in ("localhost:80", "127.0.0.1", "[::1]:8000"):
        assert not list_notices(Volume("c", "e", "x", here, "http", token="env:T"))


# Reading


def test_a_cut_out_is_what_the_server_has(volume: Volume, voxels: np.ndarray) -> None:
    array = BossArray(volume)
    assert array.shape == voxels.shape
    assert array.dtype == voxels.dtype
    assert array.voxel_size == (40, 4, 4)
    assert np.array_equal(array[2:9, 10:40, 7:8], voxels[2:9, 10:40, 7:8])
    assert np.array_equal(array[3:4, 5:6, 7:8], voxels[3:4, 5:6, 7:8])
    assert array[:1, :1, :1].flags.writeable


def test_57_megavoxels_are_one_request(server: BossServer, volume: Volume) -> None:
    made = np.random.default_rng(1).integers(0, 256, (57, 1000, 1000), dtype=np.uint8)
    server.add("c/e/large", made)
    array = BossArray(dataclasses.replace(volume, collection="c", experiment="e", channel="large"))
    assert np.array_equal(array[:, :, :], made)
    assert len(server.cutouts()) == 1


def test_a_volume_above_the_limit_is_cut_into_requests_that_do_not_overlap(
    server: BossServer, volume: Volume, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_BYTES", 5000)
    assert np.array_equal(BossArray(volume)[1:, :, 3:], voxels[1:, :, 3:])
    sizes = []
    for path in server.cutouts():
        ranges = [part.split(":") for part in path.split("/")[7:10]]
        sizes.append(math.prod(int(stop) - int(start) for start, stop in ranges))
    assert max(sizes) <= 2500
    assert sum(sizes) == voxels[1:, :, 3:].size


@pytest.mark.parametrize(
    ("box", "most"),
    [
        (((0, 99), (0, 3000), (0, 5000)), 60_000_000),
        (((5, 6), (7, 20_000), (0, 30_000)), 50_000_000),
        (((0, 3), (0, 3), (0, 3)), 1),
    ],
)
def test_parts_of_a_box_hold_each_voxel_once(box, most) -> None:
    parts = split_box(box, most)
    assert all(math.prod(b - a for a, b in part) <= most for part in parts)
    assert sum(math.prod(b - a for a, b in part) for part in parts) == math.prod(
        b - a for a, b in box
    )
    for one, other in itertools.combinations(parts, 2):
        assert any(a >= d or c >= b for (a, b), (c, d) in zip(one, other, strict=True)), (
            "two parts overlap"
        )


def test_indices_are_coordinates_of_a_frame_that_does_not_begin_at_0(
    server: BossServer, volume: Volume, voxels: np.ndarray
) -> None:
    server.add(NAME, voxels, start=(100, 20, 3))
    array = BossArray(volume)
    assert array.extent == ((100, 112), (20, 60), (3, 53))
    assert array.shape == (112, 60, 53)
    assert np.array_equal(array[101:103, 20:60, 4:9], voxels[1:3, :, 1:6])
    assert np.array_equal(array[:, :, :], voxels)
    told = refuse(array.__getitem__, np.s_[0:10, 20:30, 3:5])
    assert "z 100:112, y 20:60, x 3:53" in told


@pytest.mark.parametrize("hierarchy", ["anisotropic", "isotropic"])
def test_a_lower_resolution_is_read_in_its_own_voxels(
    server: BossServer, volume: Volume, hierarchy: str
) -> None:
    full = np.random.default_rng(2).integers(0, 256, (9, 31, 50), dtype=np.uint8)
    half = full[:: 2 if hierarchy == "isotropic" else 1, ::2, ::2]
    server.add(NAME, full, half, hierarchy=hierarchy)
    array = BossArray(dataclasses.replace(volume, resolution=1))
    assert array.shape == half.shape
    assert array.voxel_size == ((80 if hierarchy == "isotropic" else 40), 8, 8)
    assert np.array_equal(array[:, :, :], half)
    wrong = dataclasses.replace(volume, resolution=2)
    assert "it has 0 to 1" in refuse(BossArray, wrong)


@pytest.mark.parametrize(
    "key", [np.s_[0:13, :, :], np.s_[:, 5:5, :], np.s_[:, :, -3:4], np.s_[4:2, :, :]]
)
def test_what_leads_out_of_the_frame_is_refused(volume: Volume, server: BossServer, key) -> None:
    array = BossArray(volume)
    assert "does not lie in" in refuse(array.__getitem__, key)
    assert not server.cutouts()


def test_an_array_is_indexed_by_three_plain_slices(volume: Volume) -> None:
    array = BossArray(volume)
    for key in (3, np.s_[1:2], np.s_[0, :, :], np.s_[::2, :, :]):
        with pytest.raises(TypeError, match="slices"):
            array[key]


def test_threads_share_an_array(volume: Volume, voxels: np.ndarray) -> None:
    array = BossArray(volume)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda z: array[z : z + 1, :, :], range(12)))
    assert np.array_equal(np.concatenate(read), voxels)


def read_slice(array, z: int) -> np.ndarray:
    return array[z : z + 1, :, :]


_inherited = []


def read_inherited(z: int) -> np.ndarray:
    return read_slice(_inherited[-1], z)


def test_daemonic_forked_workers_read_an_array_that_is_open(
    volume: Volume, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (5.0, 10.0))
    array = BossArray(volume)
    read_slice(array, 0)  # so that there is a connection to inherit
    with get_context("fork").Pool(3, _inherited.append, [array]) as pool:
        read = pool.map(read_inherited, [z % 12 for z in range(60)], chunksize=1)
    assert np.array_equal(np.concatenate(read[:12]), voxels)
    assert np.array_equal(np.concatenate(read[12:]), np.concatenate([voxels] * 4))


# What goes wrong


def test_a_server_that_is_busy_is_an_oserror_and_answers_later(
    server: BossServer, volume: Volume, voxels: np.ndarray
) -> None:
    array = BossArray(volume)
    for status in (503, 500, 429):
        server.fail("cutout", status)
        with pytest.raises(OSError, match=str(status)) as caught:
            array[0:1, :, :]
        assert not isinstance(caught.value, InputError)
        assert np.array_equal(array[0:1, :, :], voxels[0:1])
    assert len(server.cutouts()) == 6, "something else tried again"


def test_a_silent_server_is_an_oserror_after_a_while(
    server: BossServer, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (5.0, 0.3))
    array = BossArray(volume)
    server.delay("cutout", 1.0)
    began = time.monotonic()
    with pytest.raises(OSError, match="timed out"):
        array[0:1, :, :]
    assert time.monotonic() - began < 0.9


def test_a_slow_answer_is_waited_for(
    server: BossServer, volume: Volume, voxels: np.ndarray
) -> None:
    array = BossArray(volume)
    server.delay("cutout", 0.5)
    assert np.array_equal(array[:, :, :], voxels)


def test_an_answer_that_breaks_off_is_an_oserror(
    server: BossServer, volume: Volume, voxels: np.ndarray
) -> None:
    array = BossArray(volume)
    server.hang_up("cutout")
    with pytest.raises(OSError, match="IncompleteRead") as caught:
        array[:, :, :]
    assert not leak(caught.value, server.token)
    assert np.array_equal(array[:, :, :], voxels)


def test_no_server_is_an_oserror(volume: Volume) -> None:
    with pytest.raises(OSError, match="refused"):
        BossArray(dataclasses.replace(volume, host="127.0.0.1:1"))


def test_a_wrong_token_is_told(volume: Volume, server: BossServer) -> None:
    server.token = "another"
    told = refuse(BossArray, volume)
    assert "does not know the token" in told
    assert volume.token.removeprefix("file:") in told


def test_a_missing_permission_is_told(volume: Volume, server: BossServer) -> None:
    array = BossArray(volume)
    server.private.add(NAME)
    assert "permission" in refuse(BossArray, volume)
    assert "z 0:1, y 0:40, x 0:50" in refuse(read_slice, array, 0)
    assert "not public" in refuse(BossArray, dataclasses.replace(volume, token="public"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"channel": "DAPPI"}, "no channel 'DAPPI' in collman/collman15v2 (did you mean DAPI?)"),
        ({"channel": "x"}, "it has DAPI."),
        ({"experiment": "collman15"}, "no experiment 'collman15' in collman (did you mean"),
        ({"collection": "Collman"}, "no collection 'Collman' (did you mean collman?)"),
    ],
)
def test_an_unknown_name_is_told_with_those_that_there_are(
    volume: Volume, changed: dict[str, str], told: str
) -> None:
    assert told in refuse(BossArray, dataclasses.replace(volume, **changed))


def test_what_the_server_refuses_is_told_in_its_words(volume: Volume, server: BossServer) -> None:
    array = BossArray(volume)
    server.fail("cutout", 400, body=b'{"message": "the moon is full"}')
    assert "the moon is full" in refuse(read_slice, array, 0)


def test_voxels_of_another_type_than_told_are_refused(
    volume: Volume, server: BossServer, voxels: np.ndarray
) -> None:
    server.add(NAME, voxels.astype(np.uint8), datatype="uint16")
    assert "not of the type" in refuse(read_slice, BossArray(volume), 0)
    server.add(NAME, voxels, datatype="float32")
    assert "float32" in refuse(BossArray, volume)


def test_an_answer_that_is_no_cut_out_is_an_oserror(volume: Volume, server: BossServer) -> None:
    array = BossArray(volume)
    server.fail("cutout", 200, body=b"<html>Please log in</html>")
    with pytest.raises(OSError, match="cannot be unpacked"):
        array[0:1, :, :]
    server.fail("channel", 200, body=b"<html>Please log in</html>")
    with pytest.raises(OSError, match="does not answer as a BOSS"):
        BossArray(volume)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One that nobody has signed, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "boss")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(secret + made.public_bytes(encoding))
    return path


def test_certificates_are_verified(
    volume: Volume, voxels: np.ndarray, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BossServer(certificate=certificate) as server:
        server.add(NAME, voxels)
        safe = dataclasses.replace(volume, host=server.host, protocol="https")
        assert "certificate" in refuse(BossArray, safe)
        assert not server.requests, "the token was sent"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert np.array_equal(BossArray(safe)[:, :, :], voxels)


def test_a_password_of_the_host_in_netrc_does_not_take_the_place_of_the_token(
    volume: Volume, voxels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password no\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert np.array_equal(BossArray(volume)[:, :, :], voxels)


def test_a_proxy_is_used_for_other_machines_only(
    server: BossServer, volume: Volume, voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    refuse(BossArray, dataclasses.replace(volume, host="boss.invalid"))
    assert server.requests[0].startswith("GET http://boss.invalid/v1/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert np.array_equal(BossArray(volume)[:, :, :], voxels)


# Writing


def test_what_is_written_is_there(server: BossServer, volume: Volume) -> None:
    there = server.add(NAME, np.zeros((12, 40, 50), np.uint16))
    data = np.random.default_rng(3).integers(0, 2**16, (4, 10, 20), dtype=np.uint16)
    BossArray(volume).write((3, 5, 7), data)
    expected = np.zeros_like(there)
    expected[3:7, 5:15, 7:27] = data
    assert np.array_equal(there, expected)


def test_zeros_are_written_over_what_there_was(
    server: BossServer, volume: Volume, voxels: np.ndarray
) -> None:
    expected = voxels.copy()
    BossArray(volume).write((0, 0, 0), np.zeros((2, 40, 50), np.uint16))
    expected[:2] = 0
    assert np.array_equal(voxels, expected)
    some = voxels[4:6] * np.random.default_rng(4).integers(0, 2, (2, 40, 50), dtype=np.uint16)
    BossArray(volume).write((4, 0, 0), some)
    expected[4:6] = some
    assert np.array_equal(voxels, expected)


def test_zeros_are_not_sent_where_there_is_nothing_to_clear(
    server: BossServer, volume: Volume
) -> None:
    server.add(NAME, np.zeros((12, 40, 50), np.uint16))
    BossArray(volume).write((0, 0, 0), np.eye(40, 50, dtype=np.uint16)[None])
    assert not server.cutouts("PUT")
    assert len(server.cutouts("POST")) == 1


def test_labels_whose_sum_overflows_to_0_are_written(server: BossServer, volume: Volume) -> None:
    there = server.add(NAME, np.zeros((2, 4, 4), np.uint64), type="annotation")
    data = np.full((2, 4, 4), 2**60, np.uint64)
    assert data.sum() == 0
    BossArray(volume).write((0, 0, 0), data)
    assert np.array_equal(there, data)


def test_a_large_region_is_written_in_parts(
    server: BossServer, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = server.add(NAME, np.zeros((12, 40, 50), np.uint8))
    monkeypatch.setattr(client, "MOST_VOXELS", 5000)
    data = np.random.default_rng(5).integers(1, 256, there.shape, dtype=np.uint8)
    BossArray(volume).write((0, 0, 0), data)
    assert np.array_equal(there, data)
    assert len(server.cutouts("POST")) >= 5


def test_a_write_to_a_frame_that_does_not_begin_at_0(server: BossServer, volume: Volume) -> None:
    there = server.add(NAME, np.zeros((4, 5, 6), np.uint8), start=(10, 20, 30))
    BossArray(volume).write((11, 20, 30), np.full((1, 5, 6), 7, np.uint8))
    assert there[1].min() == there.max() == 7
    assert there.sum() == 7 * 30
    assert "does not lie in" in refuse(BossArray(volume).write, (0, 0, 0), there)


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint64", "uint32", "int8", "complex64"])
def test_a_type_that_the_channel_cannot_hold_is_refused(
    server: BossServer, volume: Volume, voxels: np.ndarray, dtype: str
) -> None:
    assert "holds uint16" in refuse(BossArray(volume).check_writable, dtype)
    assert "holds uint16" in refuse(BossArray(volume).write, (0, 0, 0), voxels.astype(dtype))
    assert not server.cutouts("POST")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">u2"])
def test_a_type_that_fits_is_written_as_the_channel_has_it(
    server: BossServer, volume: Volume, voxels: np.ndarray, dtype: str
) -> None:
    BossArray(volume).check_writable(dtype)
    data = (np.arange(voxels.size).reshape(voxels.shape) % 3).astype(dtype)
    BossArray(volume).write((0, 0, 0), data)
    assert np.array_equal(voxels, data)


def test_what_a_boss_does_not_write_is_refused(server: BossServer, volume: Volume) -> None:
    levels = [np.zeros((4, 8 >> level, 8 >> level), np.uint8) for level in range(3)]
    server.add(NAME, *levels)
    deep = dataclasses.replace(volume, resolution=2)
    assert "at 0 or 1" in refuse(BossArray(deep).check_writable, "uint8")
    server.add(NAME, *levels, storage_type="cloudvol")
    assert "CloudVolume" in refuse(BossArray(volume).check_writable, "uint8")
    assert "three axes" in refuse(BossArray(volume).write, (0, 0, 0), levels[0][0])


def test_a_write_that_may_not_be_is_told(server: BossServer, volume: Volume) -> None:
    data = np.ones((1, 2, 3), np.uint16)
    array = BossArray(dataclasses.replace(volume, token="public"))
    told = refuse(array.write, (0, 0, 0), data)
    assert "to write z 0:1" in told


# The token


def leak(error: BaseException, token: str) -> list[str]:
    """Return what of an error has the token."""
    texts = {
        "traceback": "".join(traceback.format_exception(error)),
        "repr": repr(error),
        "attributes": repr(vars(error)),
        "pickle": repr(pickle.dumps(error)),
        "cause": repr(vars(getattr(error.__context__, "request", None) or error)),
    }
    return [name for name, text in texts.items() if token in text]


def test_the_token_is_in_nothing_that_is_kept(
    server: BossServer, volume: Volume, voxels: np.ndarray, tmp_path: Path
) -> None:
    config = read_config(write_config(tmp_path, server))
    array = BossArray(volume)
    array[0:1, :, :]
    kept = [volume, config, array]
    texts = [text for each in kept for text in (repr(each), str(each), repr(pickle.dumps(each)))]
    texts.append(json.dumps(dataclasses.asdict(config)))
    assert not [text for text in texts if server.token in text]
    assert pickle.loads(pickle.dumps(volume)) == volume
    assert np.array_equal(pickle.loads(pickle.dumps(array))[:, :, :], voxels)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503])
def test_the_token_is_in_no_error(volume: Volume, server: BossServer, status: int) -> None:
    array = BossArray(volume)
    data = np.ones((1, 2, 3), np.uint16)
    echo = f"you sent {server.token}".encode()
    for function, path in [
        (lambda: BossArray(volume), "GET"),
        (lambda: array[0:1, :, :], "GET"),
        (lambda: array.write((0, 0, 0), data), "POST"),
    ]:
        server.fail(path, status, body=echo)
        with pytest.raises((InputError, OSError)) as caught:
            function()
        assert not leak(caught.value, server.token)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_token_is_in_no_error_of_a_connection(
    volume: Volume, server: BossServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (5.0, 0.1))
    array = BossArray(volume)
    server.delay("cutout", 0.3)
    with pytest.raises(OSError, match="timed out") as late:
        array[0:1, :, :]
    with pytest.raises(OSError, match="refused") as refused:
        BossArray(dataclasses.replace(volume, host="127.0.0.1:1"))
    for caught in (late, refused):
        assert not leak(caught.value, server.token)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_token_in_the_place_of_its_place_is_refused_unseen() -> None:
    token = "5ea1edd15ea5ed0123456789"
    told = refuse(lambda: Volume("c", "e", "x", "h.org", token=token))
    assert token not in told


@pytest.mark.parametrize("token", ["a\nb", "ü123456", "per%cent", 'quo"te'])
def test_what_no_header_can_have_is_refused_unseen(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", token)
    told = refuse(read_token, "env:MY_TOKEN")
    assert token not in told
    assert "$MY_TOKEN" in told


def test_a_token_is_looked_for_where_it_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "whole path" in refuse(read_token, "file:token")
    assert "$NONE is not set" in refuse(read_token, "env:NONE")
    assert "cannot be read" in refuse(read_token, f"file:{tmp_path}/none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refuse(read_token, f"file:{tmp_path}/bytes")
    monkeypatch.setenv("MY_TOKEN", " 123abc\n")
    assert read_token("env:MY_TOKEN") == "123abc"


def test_every_token_that_was_read_is_taken_out_of_a_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHORT", "abc123")
    monkeypatch.setenv("LONG", "abc123def456")
    for name in ("SHORT", "LONG"):
        read_token(f"env:{name}")
    assert redact("abc123def456, abc123; public") == "<token>, <token>; public"


def test_a_worker_reads_the_token_where_it_is(volume: Volume, voxels: np.ndarray) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        array = pool.submit(BossArray, volume).result()
    assert np.array_equal(array[:, :, :], voxels)
