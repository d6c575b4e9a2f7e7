"""DeepDream: a photograph from the browser, changed towards what the network sees in it."""

from __future__ import annotations

import secrets
from pathlib import Path

import streamlit as st

from fvfast import files
from fvfast.errors import FvfastError
from fvfast.tables import figure
from fvfast_dashboard import jobs, live, settings, uploads, widgets
from fvfast_dashboard.asking import DreamRequest
from fvfast_dashboard.jobs import Job
from fvfast_dashboard.uploads import Upload

KEPT = "dreams"  # a folder in the store's, which the store itself leaves alone
PRESETS = {
    "creatures": "eyes, fur and animals that are not there",
    "garden": "leaves, petals and feathers",
    "patterns": "scales, bubbles and weaves",
    "engraving": "hatching and strokes",
}


def show() -> None:
    widgets.title("DeepDream", "Show the network a photograph, and let it see more of what it sees.")
    choices, work = st.columns([1, 1.4], gap="large")
    with choices:
        upload = _upload()
        _start(upload)
    with work:
        live.watch("dream", _ended)
        if not any(job.request.kind == "dream" for job in jobs.desk().jobs()):
            with st.container(border=True):
                st.markdown(
                    "**No dream yet.** Upload a photograph: it is dreamt over scale by scale, coarse to fine, and "
                    "you can watch. Photographs stay on the machine that runs this dashboard."
                )
    _kept()


def _upload() -> Upload | None:
    given = st.file_uploader(
        "Photograph",
        type=list(uploads.SUFFIXES),
        key="dream photo",
        help=f"{uploads.LARGEST_MB} MB and {uploads.LARGEST_PIXELS // 10**6} million pixels at most.",
    )
    if given is None:
        return None
    try:
        upload = uploads.accept(given.name, given.getvalue())
    except FvfastError as error:
        widgets.problem(str(error))
        return None
    st.image(upload.data, caption=f"{upload.name}, {upload.width}x{upload.height}", width="stretch")
    return upload


def _start(upload: Upload | None) -> None:
    preset = st.radio("Dream of", list(PRESETS), captions=list(PRESETS.values()), key="dream preset")
    with st.expander("More"):
        left, right = st.columns(2)
        octaves = left.number_input("Octaves", 1, 12, None, placeholder="by its size", help="Scales, coarse to fine.")
        steps = right.number_input("Steps at each", 1, 200, None, placeholder="12")
        strength = left.number_input(
            "Strength", 0.001, 0.1, None, step=0.001, format="%.3f", placeholder="0.009", help="Mean change in a step."
        )
        seed = right.number_input("Seed", 0, 2**31 - 1, 0, key="dream seed")
    pressed = st.button(
        "Dream",
        type="primary",
        icon=":material/nights_stay:",
        width="stretch",
        disabled=upload is None,
        help=None if upload else "Upload a photograph first.",
    )
    if not pressed or upload is None:
        return
    desk = jobs.desk()
    photo = desk.folder / f"{upload.digest}{upload.suffix}"
    out = desk.folder / f"dream-{secrets.token_hex(8)}{upload.suffix}"
    try:
        with files.whole(photo) as file:
            file.write(upload.data)
        request = DreamRequest(str(photo), str(out), upload.name, preset, octaves, steps, strength, seed)
        live.follow("dream", desk.submit(request))
    except FvfastError as error:
        widgets.problem(str(error))


def _ended(job: Job) -> None:
    """A dream that is there: before and after, to download or to keep."""
    request = job.request
    if not isinstance(request, DreamRequest):
        return
    try:
        before, after = Path(request.photo).read_bytes(), Path(job.file).read_bytes()
    except OSError:
        st.caption("Its file is gone.")
        return
    sides, key = ["After", "Before"], f"side {job.token}"
    compared = st.radio("Show", sides, key=key, horizontal=True, label_visibility="collapsed")
    start, end = job.objectives
    caption = f"objective {figure(start or 0)} to {figure(end or 0)}, {job.done} steps in {job.seconds:.1f} s"
    st.image(before if compared == "Before" else after, caption=caption, width="stretch")
    suffix = Path(job.file).suffix
    name = f"{Path(request.name).stem}-dream-{request.preset}{suffix}"
    left, right = st.columns(2)
    left.download_button(
        "Download", after, name, icon=":material/download:", on_click="ignore", width="stretch", key=f"get {job.token}"
    )
    folder = settings.store_folder() / KEPT
    if right.button("Keep", icon=":material/bookmark:", width="stretch", key=f"keep {job.token}", help=f"In {folder}"):
        _keep(folder / f"{Path(name).stem}-{Path(job.file).stem.removeprefix('dream-')[:8]}{suffix}", after)
        st.toast("Kept.", icon=":material/bookmark:")
    with st.expander("The same on the command line", icon=":material/terminal:"):
        st.code(request.command(), language="bash", wrap_lines=True)


def _keep(path: Path, data: bytes) -> None:
    files.writable(path.parent, make=True)
    with files.whole(path) as file:
        file.write(data)


def _kept() -> None:
    """The dreams that were kept, the newest first."""
    folder = settings.store_folder() / KEPT
    found = sorted((path for path in folder.glob("*.*") if path.suffix in uploads.FORMATS.values()), key=_age)
    if not found:
        return
    st.subheader("Kept dreams", anchor=False)
    columns = st.columns(4)
    for at, path in enumerate(found[:12]):
        columns[at % 4].image(path.read_bytes(), caption=path.stem, width="stretch")


def _age(path: Path) -> float:
    return -path.stat().st_mtime
