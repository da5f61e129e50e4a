"""The guide is held against the program: its code runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from blipcalc import errors

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "examples" / "guide"
PAGES, README = sorted(GUIDE.glob("*.md")), ROOT / "README.md"
DOCUMENTS = [
    *PAGES,
    README,
    ROOT / "examples" / "README.md",
    ROOT / "examples" / "reproduce" / "README.md",
    ROOT / "examples" / "reproduce" / "RESULTS.md",
    ROOT / "tests" / "README.md",
]
#: blocks that are not run, in all pages together
MOST_NOT_RUN = 3
#: lines of a page that people read; the list of commands is longer
MOST_LINES = 190

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|from): (.+?) -->\n\Z")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GAP = re.compile(r"\n\s*# \.\.\.\n")


@dataclass(frozen=True)
class Block:
    """A block of code in a document.

    line : of its first line of code
    mark, why : ``not run`` and the reason, or ``from`` and the file that it quotes; empty without a mark
    """

    language: str
    code: str
    line: int
    mark: str = ""
    why: str = ""


def blocks(text: str, language: str) -> list[Block]:
    """All blocks of a language."""
    found = []
    for match in FENCE.finditer(text):
        mark = MARK.search(text[: match.start()])
        mark, why = mark.groups() if mark else ("", "")
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, mark, why))
    return [block for block in found if block.language == language]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(text: str, name: str) -> None:
    """Run all blocks of a page in one namespace."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(text, "python"):
        if not block.mark:
            exec(compile("\n" * (block.line - 1) + block.code, name, "exec"), namespace)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the data that the repository brings."""
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = [README, *PAGES]


@pytest.mark.parametrize("page", RUN, ids=[page.stem for page in RUN])
def test_the_code_of_a_page_runs(page, folder):
    run(page.read_text(encoding="utf-8"), name_of(page))


def test_code_that_fails_is_seen(folder):
    page = "A page.\n\n```python\nx = 1\n```\n\n<!-- not run: no DFT here -->\n```python\nraise ValueError\n```\n"
    run(page, "page")
    with pytest.raises(ZeroDivisionError) as caught:
        run(page + "\n```python\nx / 0\n```\n", "page")
    assert caught.traceback[-1].lineno + 1 == 13


def not_run(text: str) -> list[Block]:
    return [block for block in blocks(text, "python") if block.mark == "not run"]


def test_few_blocks_are_not_run():
    assert sum(len(not_run(page.read_text(encoding="utf-8"))) for page in PAGES) <= MOST_NOT_RUN
    assert len(not_run("<!-- not run: no DFT here -->\n```python\ny\n```\n\n```python\nz\n```\n")) == 1


def wrong_quotes(text: str) -> list[str]:
    """First lines of what is quoted otherwise than it stands in its file; a line ``# ...`` leaves something out."""
    wrong = []
    for block in blocks(text, "python") + blocks(text, "toml"):
        if block.mark != "from":
            continue
        source, place = (ROOT / block.why).read_text(encoding="utf-8"), 0
        for part in GAP.split(block.code):
            place = source.find(part.strip("\n"), place)
            if place < 0:
                wrong.append(part.strip("\n").partition("\n")[0])
                break
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_quoted_code_is_that_of_its_file(page):
    assert wrong_quotes(page.read_text(encoding="utf-8")) == []


def test_a_wrong_quote_is_seen():
    quote = '<!-- from: tests/plugin/blipcalc_example/gyration.py -->\n```python\nimport numpy as np\n# ...\n    """{}"""\n```\n'
    assert wrong_quotes(quote.format("``gyration``, Å: radius of gyration of all atoms.")) == []
    assert wrong_quotes(quote.format("``gyration``, Å: something else.")) != []


def prose(text: str) -> str:
    """A document without its code."""
    return re.sub(r"`[^`\n]*`", "`", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Of the headings of a document, as web pages of repositories name them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        names = (slug, *(f"{slug}-{k}" for k in range(1, 100)))
        found.add(next(name for name in names if name not in found))
    return found


def dead_links(path: Path) -> list[str]:
    """Links of a document to files and headings that are not there."""
    dead = []
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    return dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=[name_of(path) for path in DOCUMENTS])
def test_every_link_leads_somewhere(path):
    assert dead_links(path) == []


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "other.md").write_text("# Another thing: α\n\n```console\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    alive = "# One thing\n\n[a](#one-thing) [b](other.md) [c](other.md#another-thing-α) [d](https://no.where) `[e](no.md)`\n"
    page.write_text(alive, encoding="utf-8")
    assert dead_links(page) == []
    page.write_text(alive + "\n[f](#another) [g](no.md) [h](other.md#no-heading) ![i](no.png)\n", encoding="utf-8")
    assert dead_links(page) == ["#another", "no.md", "other.md#no-heading", "no.png"]


def test_the_index_names_every_page_and_script():
    index = ROOT / "examples" / "README.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(prose(index.read_text(encoding="utf-8")))}
    assert {*PAGES, *(ROOT / "examples").glob("*.py")} <= linked


def test_every_error_and_warning_is_explained():
    page = (GUIDE / "troubleshooting.md").read_text(encoding="utf-8")
    names = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert len(names) > 40
    assert {name for name in names if f"`{name}`" not in page} - {"BlipcalcError"} == set()


def test_no_page_is_too_long():
    lengths = {page.stem: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES and name != "command_line"} == {}


@pytest.fixture(scope="module")
def program():
    """What makes the page of the command line."""
    spec = importlib.util.spec_from_file_location("make_command_line", GUIDE / "make_command_line.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_that_of_the_program(program):
    assert (GUIDE / "command_line.md").read_text(encoding="utf-8") == program.page(), (
        "run examples/guide/make_command_line.py"
    )


def calls(text: str) -> list[list[str]]:
    """Words of every call of the program in the blocks for a shell."""
    found = []
    for block in [*blocks(text, "console"), *blocks(text, "bash")]:
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for before, word, rest in zip(["", *words], words, range(1, len(words) + 1), strict=False):
                is_called = before in ("", "&&", "-m", "srun") or "=" in before
                if is_called and word.rpartition("/")[2] == "blipcalc":
                    found.append(words[rest:])
    return found


def unknown_calls(text: str, program) -> list[str]:
    """Calls that the command line does not take."""
    commands, wrong = program.commands(), []
    for name, *arguments in calls(text):
        if name in ("--help", "--version"):
            continue
        if name not in commands:
            wrong.append(name)
        elif arguments != ["--help"]:
            try:
                commands[name].make_context(name, list(arguments))  # parses, and does not run
            except Exception as error:  # the parser has errors of its own
                wrong.append(f"{name} {shlex.join(arguments)}: {error}")
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=[name_of(path) for path in DOCUMENTS])
def test_the_command_line_takes_every_call(path, program):
    assert unknown_calls(path.read_text(encoding="utf-8"), program) == []


def test_calls_that_the_command_line_does_not_take_are_seen(program):
    page = "```console\ncd blipcalc && OMP_NUM_THREADS=1 .venv/bin/blipcalc {}  # a comment\nmake demo\n```\n"
    assert unknown_calls(page.format("md start.xyz --time-ps 1 \\\n  --limits limits.json"), program) == []
    for call in ("mdd start.xyz", "md start.xyz --time-ps 1 --limit l.json", "md start.xyz", "md a.xyz --time-ps one"):
        assert len(unknown_calls(page.format(call), program)) == 1


def test_the_first_page_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9000
