"""Files, commands and options that the documentation names exist, and every op has a page."""

import re
import shlex
from pathlib import Path

import click
import pytest

from dkic.cli import cli
from dkic.ops.backends import OPS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Their links are relative to their own folder; those of the site are checked by `mkdocs build --strict`.
OUTSIDE_THE_SITE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dkic/weights/LICENSE.md", "dkic/weights/MODEL_CARD.md"]
KERNELS = sorted(page for page in (DOCS / "kernels").glob("*.md") if page.stem != "index")
PAGES = [*OUTSIDE_THE_SITE, *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]


def commands() -> dict[str, set[str]]:
    """The options of every command of dkic."""
    context = click.Context(cli)
    found = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        options = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
        found[name] = {option for option in options if option.startswith("-")} | {"--help", "-h"}
    return found


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", OUTSIDE_THE_SITE)
def test_links_have_targets(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_their_options(page):
    known = commands()
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^(?:.*-m )?dkic [a-z].*", block, re.MULTILINE):
            name, *words = shlex.split(line[line.index("dkic ") + 5 :].split("|")[0], comments=True)
            assert name in known, line
            assert {word for word in words if re.match(r"--?[a-z]", word)} <= known[name], line


@pytest.mark.parametrize("page", PAGES)
def test_inline_commands_have_their_options(page):
    known = commands()
    for name, words in re.findall(r"`dkic ([a-z-]+)((?: [^`]*)?)`", (ROOT / page).read_text()):
        assert name in known, name
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", words)) <= known[name], (name, words)


@pytest.mark.parametrize("page", PAGES)
def test_inline_options_exist(page):
    """An option that is named alone belongs to one of dkic's commands."""
    known = set().union(*commands().values())
    assert set(re.findall(r"`(--[a-z][a-z-]*)", (ROOT / page).read_text())) <= known


@pytest.mark.parametrize("page", KERNELS, ids=lambda page: page.stem)
def test_pages_of_kernels_have_the_same_headings(page):
    for heading in ("Formula", "Shapes", "Gradients", "Determinism", "How it works"):
        assert f"\n## {heading}\n" in page.read_text(), heading
    assert re.search(r"^## (Backends and s|S)peed$", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("op", OPS)
def test_op_has_a_page_and_an_api_entry(op):
    assert DOCS / "kernels" / f"{op}.md" in KERNELS
    assert f"dkic.ops.{op}" in (DOCS / "api" / "ops.md").read_text()
    assert f"`dkic.ops.{op}`" in (ROOT / "README.md").read_text()
