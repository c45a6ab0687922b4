"""Damage in the cache is found, named, removed, and exactly that is made again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from .project import Project, copy_of


def mskd(project: Project, *arguments: str) -> tuple[int, str]:
    done = project.run(sys.executable, "-m", "mskd", *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


def test_verify_repair_and_run_again(finished: Project, tmp_path: Path) -> None:
    project = copy_of(finished, tmp_path)
    code, text = mskd(project, "cache", "verify", "config/tiny.yaml")
    assert code == 0
    assert "every store is whole and current" in text
    (shard,) = (project.results / "cache" / "liver").glob("*/spleen/*/spleen_1.zarr/logits/c/0/0/0/0")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 16
    shard.write_bytes(data)
    code, text = mskd(project, "cache", "verify", "config/tiny.yaml")
    assert code == 1
    assert "spleen/spleen_1" in text
    assert "damaged" in text

    # a training that meets it stops with the case and the command to run
    (manifest,) = (project.results / "manifests" / "train_student" / "mskd").glob("*.json")
    manifest.unlink()
    for name in ("model.json", "checkpoint.safetensors"):  # which alone would give the model back, without training
        (file,) = (project.results / "models" / "mskd").glob(f"*/{name}")
        file.unlink()
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "spleen/spleen_1" in done.stdout + done.stderr
    assert "mskd cache verify" in done.stdout + done.stderr

    before = project.artefacts()
    assert mskd(project, "cache", "verify", "config/tiny.yaml", "--repair")[0] == 0
    project.snakemake()
    after = project.artefacts()
    made = {name for name in after if before.get(name) != after[name]}
    assert made == {"cache/liver/spleen/spleen_1", "models/mskd", "metrics.csv"}
    # the student's weights are those of before, so its predictions and their scores stand
    assert (project.results / "metrics.csv").read_bytes() == (finished.results / "metrics.csv").read_bytes()


def test_info_says_what_is_there(finished: Project) -> None:
    code, text = mskd(finished, "cache", "info", "config/tiny.yaml", "--json")
    assert code == 0
    rows = json.loads(text)
    assert {(row["teacher"], row["dataset"], row["cases"], row["missing"], row["stale"]) for row in rows} == {
        ("liver", "liver", 2, 0, 0),
        ("liver", "spleen", 2, 0, 0),
        ("spleen", "liver", 2, 0, 0),
        ("spleen", "spleen", 2, 0, 0),
        ("all", "", 8, 0, 0),
    }
    total = rows[-1]
    assert total["bytes"] == sum(
        file.stat().st_size for file in (finished.results / "cache").rglob("*.zarr/**/*") if file.is_file()
    )


def test_info_draws_a_case(finished: Project, tmp_path: Path) -> None:
    picture = tmp_path / "case.png"
    code, text = mskd(
        finished, "cache", "info", "config/tiny.yaml", "--case", "liver/liver_0", "--output", str(picture)
    )
    assert code == 0, text
    assert picture.stat().st_size > 10_000
    code, text = mskd(finished, "cache", "info", "config/tiny.yaml", "--case", "liver/nobody")
    assert code == 1
    assert "liver/liver_0" in text


def test_targets_in_an_object_store(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved to S3, the targets are made there, and a student that learns from there is the same, bit for bit."""
    project = copy_of(finished, tmp_path)
    for store in list((project.results / "cache").rglob("*.zarr")):
        shutil.rmtree(store)
    (manifest,) = (project.results / "manifests" / "train_student" / "mskd").glob("*.json")
    manifest.unlink()
    shutil.rmtree(project.results / "models" / "mskd")
    project.edit_study(lambda study: study["cache"].update(root="s3://workflow/cache"))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("workflow")
        project.snakemake()
        assert len(files.glob("workflow/cache/tiny/*/*/*/*/*.zarr/zarr.json")) == 8
        assert not list((project.results / "cache").rglob("*.zarr"))
        assert project.predictions() == finished.predictions()
        code, text = mskd(project, "cache", "verify", "config/tiny.yaml")
        assert code == 0, text
        assert project.scheduled() == {}
        (shard,) = files.glob("workflow/cache/tiny/liver/*/spleen/*/spleen_1.zarr/logits/c/0/0/0/0")
        files.pipe_file(shard, b"damaged")
        code, text = mskd(project, "cache", "verify", "config/tiny.yaml")
        assert code == 1
        assert "spleen/spleen_1" in text
    finally:
        server.stop()
