"""The documentation: it builds without a warning or a network, leads to one's own model, and does what it says."""

import html.parser
import logging
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import PIL.Image
import pytest
import torch
import typer.main

import fvfast
import fvfast.cli
from fvfast.compat.lucent.optvis import render as lucent_render

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Pages whose Python is complete: every block of a page runs after the one before it.
RUN = [
    "tutorial.md",
    "lucent.md",
    "activation-atlas.md",
    *(p.relative_to(DOCS).as_posix() for p in PAGES if p.parent.name == "howto"),
]


class Page(html.parser.HTMLParser):
    """A built page: its links as {text: address}, everything it loads, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.loads: list[str] = []
        self.text = ""
        self._link: str | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.loads += [value for key in ("src", "srcset", "data-src") if (value := found.get(key))]
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(found["href"] or "")
        if tag == "a":
            self._link = found.get("href")

    def handle_endtag(self, tag):
        if tag == "a":
            self._link = None

    def handle_data(self, data):
        self.text += data
        if self._link and data.strip():
            self.links.setdefault(data.strip(), self._link)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does: any warning, such as a page that no menu leads to, ends the build."""
    config = pytest.importorskip("mkdocs.config")
    from mkdocs.commands.build import build

    out = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True))
    return out


def test_the_menu_has_every_page_once():
    yaml = pytest.importorskip("yaml")

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(listed) == sorted(there), "add the page to `nav` in mkdocs.yml"


def test_the_site_leads_to_ones_own_model_in_two_clicks(site):
    front = Page(site / "index.html")
    (way,) = {link for text, link in front.links.items() if "your own model" in text}
    there = Page(site / way)
    assert "Render your own model's layer" in there.text
    assert 'fvfast.render(model, "features.2:0-7"' in there.text
    # And by the menu, from wherever one is: the section, then the page.
    section = Page(site / front.links["How to"])
    assert "Render your own model" in section.links


def test_the_site_loads_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert not [address for address in Page(path).loads if re.match(r"(https?:)?//", address)], path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?https?:", path.read_text()), path.name


def test_the_reference_comes_from_the_docstrings(site):
    page = Page(site / "reference" / "rendering.html")
    assert "Render images that excite parts of a network." in page.text
    assert "override the recipe: parameterisation, canvas in pixels" in page.text
    assert "Gives one number" not in page.text
    for name in ("atlases", "dreams", "kernels", "lucent", "objectives"):
        assert "Raises" in Page(site / "reference" / f"{name}.html").text or name == "objectives"
    every = "".join(Page(path).text for path in (site / "reference").glob("*.html"))
    missing = [name for name in fvfast.__all__ if not re.search(rf"\b{name}\b", every)]
    assert missing == ["RECIPES"]


def test_docstrings_become_lists():
    import runpy

    pytest.importorskip("griffe")
    listed = runpy.run_path(str(DOCS / "assets" / "fields.py"))["listed"]
    text = "First.\n\nsize, steps: how large,\n    and how many.\nseed: of it.\n\nRaises: nothing."
    assert (
        listed(text) == "First.\n\n- `size`, `steps`: how large,\n  and how many.\n- `seed`: of it.\n\nRaises: nothing."
    )


# Pictures --------------------------------------------------------------------------------------------------


def test_every_picture_is_made_by_a_script_of_the_repository():
    listed = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", (DOCS / "pictures.md").read_text(), re.MULTILINE))
    there = {
        p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*") if p.suffix in (".png", ".webp", ".svg", ".jpg", ".gif")
    }
    unlisted = {picture for picture in there if not any(fnmatch(picture, pattern) for pattern in listed)}
    missing = {pattern for pattern in listed if not any(fnmatch(picture, pattern) for picture in there)}
    assert (unlisted, missing) == (set(), set())
    for picture, maker in listed.items():
        if maker == "a drawing, its own source":
            assert picture.endswith(".svg")
            continue
        module = re.fullmatch(r"`python -m (bench\.\w+)(?: [^`]*)?`", maker)
        assert module, f"{picture}: {maker}"
        script = (ROOT / f"{module[1].replace('.', '/')}.py").read_text()
        folder = Path(picture).parent.name
        named = f'"{folder}"' in script if "*" in picture else _writes(script, Path(picture).stem)
        assert named, f"{module[1]} does not make {picture}"


def _writes(script: str, stem: str) -> bool:
    """Whether a script names a picture: as it is, or its beginning with the rest in braces."""
    beginnings = [stem[:i] for i in range(len(stem)) if stem[i - 1] == "-"]
    return f"{stem}.webp" in script or any(
        re.search(rf"{beginning}\{{name.*\.(webp|svg)", script) for beginning in beginnings
    )


def test_every_picture_that_a_page_shows_is_there():
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text()):
            assert (page.parent / name).is_file(), f"{page.name} shows {name}"


# Snippets --------------------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", RUN)
def test_the_python_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    """As it stands, with fewer steps and smaller images."""
    code = "\n".join(blocks(DOCS / name, "python"))
    if not code:
        pytest.skip("no Python")
    monkeypatch.chdir(tmp_path)
    small = 224 if "@" in (DOCS / name).read_text() and "neuron" in name else 64
    for function in ("render", "atlas"):
        real = getattr(fvfast, function)
        monkeypatch.setattr(
            fvfast, function, lambda *a, real=real, **o: real(*a, **{"size": small, "threads": 1, **o, "steps": 1})
        )
    full = lucent_render.render_vis
    quick = {"fixed_image_size": 48, "thresholds": (1,)}
    monkeypatch.setattr(lucent_render, "render_vis", lambda *a, **o: full(*a, **{**o, **quick}))
    (tmp_path / "photographs").mkdir()
    for number in range(12):
        noise = torch.randint(0, 255, (40, 40, 3), generator=torch.Generator().manual_seed(number)).byte().numpy()
        PIL.Image.fromarray(noise).save(tmp_path / "photographs" / f"{number}.png")
    exec(compile(code, name, "exec"), {"__name__": "page"})


def commands() -> list[tuple[str, str]]:
    """Every `fvfast ...` line in a shell block of the documentation, with the page it is on."""
    found = []
    for page in [*PAGES, ROOT / "README.md"]:
        for block in blocks(page, "sh") + blocks(page, "bash"):
            joined = block.replace("\\\n", " ")
            found += [(page.name, line.strip()) for line in joined.splitlines() if re.match(r"\s*fvfast\b", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_of_a_page_is_one(page, line):
    """Its options exist and take such values; it is not run."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(fvfast.cli.app)
    context = command.make_context("fvfast", list(words)) if words else None
    while context is not None and hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])  # pyright: ignore
        assert command is not None, f"{page}: {line}"
        context = command.make_context(name, list(rest), parent=context)


def test_there_are_commands_and_snippets_to_check():
    assert len(commands()) > 50
    assert sum(len(blocks(DOCS / name, "python")) for name in RUN) > 12
