"""README.md, CONTRIBUTING.md and docs/ agree with what is there: links, files, commands, flags."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from finetuning.options import parse

README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/R*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
# Flags that are named but are not this project's commands': pip's, and a benchmark's.
_OTHER_FLAGS = {"--no-deps", "--stock"}
_FOLDERS = r"(?:finetuning|bert|tests|benchmarks|docs|sample_data)"
_SCRIPT = re.compile(
    r"(?:-m (?P<module>(?:bert|finetuning)\.\w+)|(?P<file>(?:benchmarks/)?\w+\.py))"
    r"(?P<rest>(?= |$).*)"
)


def anchors(page):
    """Return what GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page):
    """Yield the code of a page: lines of its blocks, joined at backslashes, and spans."""
    text = page.read_text("utf-8")
    fenced = "\n".join(_FENCE.findall(text))
    rest = _FENCE.sub("", text)
    indented = "\n".join(re.findall(r"^ {4,}(.+)$", rest, re.M))
    yield from (fenced + "\n" + indented).replace("\\\n", " ").split("\n")
    spans = re.sub(r"^ {4,}.+$", "", rest, flags=re.M)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", spans))


def commands(page):
    """Yield (script, its arguments) of every command line of this project."""
    for line in code(page):
        match = re.search(r"(?:python3?|uv run) (?=\S)" + _SCRIPT.pattern, line)
        if match is None and (match := _SCRIPT.match(line)) and " -" not in match["rest"]:
            match = None  # only a file's name
        if match:
            words = shlex.split(match["rest"].split(" > ")[0], comments=True)
            yield match["module"] or match["file"], words


COMMANDS = sorted({(script, *words) for page in PAGES for script, words in commands(page)})


def map_of_the_code():
    """Return the paths that README's map shows."""
    tree = re.search(r"## Map of the code\n\n```\n(.*?)```", README.read_text("utf-8"), re.S)[1]
    paths, folders = [], []
    for line in tree.splitlines():
        names = re.match(r" *((?:\S+, )*\S+)", line)[1].split(", ")
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        paths += ["".join([*folders, name]) for name in names]
        if line.rstrip().endswith("/") or "/ " in line:
            folders.append(names[0])
    return paths


def test_readme_has_at_most_10000_bytes():
    assert README.stat().st_size <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_tests_and_make_targets_that_are_named_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("names files that have moved")
    makefile = (ROOT / "Makefile").read_text()
    for line in code(page):
        for path in re.findall(rf"(?<![\w/.-]){_FOLDERS}/[\w./-]*", line):
            assert (ROOT / path).exists(), path
        for target in re.findall(r"^make (?:-B )?([a-z-]+)", line):
            assert re.search(rf"^{target}:", makefile, re.M), line
        if match := re.search(r"pytest .*?(tests/\S+\.py).* -k (\w+)", line):
            assert match[2] in (ROOT / match[1]).read_text("utf-8"), line


def test_the_map_shows_every_file_and_no_other():
    shown = map_of_the_code()
    assert [path for path in shown if not (ROOT / path).exists()] == []
    folders = ("bert", "finetuning")
    there = [*ROOT.glob("*.py"), *(p for folder in folders for p in (ROOT / folder).rglob("*.py"))]
    names = {str(path.relative_to(ROOT)) for path in there if path.name != "__init__.py"}
    assert names <= set(shown), names - set(shown)


def help_of(script, *words):
    """Return what a command prints with these flags and --help; a bad value fails."""
    where = [script] if script.endswith(".py") else ["-m", script]
    shown = subprocess.run(
        [sys.executable, *where, *words, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return set(re.findall(r"--\w+", shown.stdout))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_have_flags_that_exist(command):
    script, *words = command
    if not any(word.startswith("--") for word in words):
        assert (ROOT / script).exists() or (ROOT / f"{script.replace('.', '/')}.py").exists()
        return
    given = [word for word in words if word != "…"]
    assert {word for word in given if word.startswith("--")} <= help_of(script, *given)
    if script == "finetune_classifier.py" and given == words:
        parse("", words)  # refuses flags that do not go together


def test_flags_that_are_named_exist():
    scripts = [path.name for path in ROOT.glob("*.py")]
    commands = [name for name in scripts if name not in ("dataset.py", "optimizer.py")]
    modules = ["bert.convert", "finetuning.convert_gluonnlp"]
    known = _OTHER_FLAGS.union(*map(help_of, [*commands, *modules]))
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "flags.md"):  # what there was; generated
            continue
        text = page.read_text("utf-8")
        refused = {
            flag
            for row in re.findall(r".*\| (?:refused|accepted, but).*", text)
            for flag in spans_of(row)
        }
        assert spans_of(text) - refused <= known, page


def spans_of(text):
    """Return the flags with which the code spans of a text begin."""
    return set(re.findall(r"`(--[\w-]+)", text))


def test_the_commands_of_gluonnlps_published_results_are_accepted():
    page = (ROOT / "docs/reproducing.md").read_text("utf-8")
    published = re.findall(r"^\|.*: .*\| `(--.*)` \| \d+ \|$", page, re.M)
    assert len(published) == 7
    for flags in published:
        options = parse("", ["--data_dir", "glue_data", *flags.split(), "--gpu", "0"])
        assert (options.bert_model, options.bert_dataset) == (
            "bert_12_768_12",
            "book_corpus_wiki_en_uncased",
        )
