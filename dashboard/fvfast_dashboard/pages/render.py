"""Render features: choose a network, a layer and channels, start, and watch the images grow."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fvfast import planes, spelling
from fvfast.errors import FvfastError
from fvfast.store import Store
from fvfast.tables import figure
from fvfast_dashboard import asking, catalogue, jobs, library, live, navigation, settings, widgets
from fvfast_dashboard.asking import RenderRequest
from fvfast_dashboard.jobs import Job

FIRST = ("_blocks.7:11",)  # of the bundled network
AS_RECIPE = "as the recipe says"
CODES = {"default": "trained", "none": "random"}


def show() -> None:
    widgets.title("Render", "Choose what a network should be made to see, and watch it appear.")
    choices, work = st.columns([1, 1.25], gap="large")
    with choices:
        model, tree, request = _choose()
        _start(request)
    with work:
        live.watch("render", _ended)
        if not any(job.request.kind == "render" for job in jobs.desk().jobs()):
            _invitation()
    _elsewhere(request)
    if model:  # last: the first look at a network takes seconds, for which nothing else has to wait
        with tree:
            _layer_tree(model)


# What to render --------------------------------------------------------------------------------------------


def _choose() -> tuple[str | None, DeltaGenerator, RenderRequest | None]:
    """The boxes: the model, the place where its layers belong, and the request, where they make one."""
    model = st.selectbox(
        "Model",
        catalogue.MODELS,
        accept_new_options=True,
        key="render model",
        help="Or type any name that `fvfast models` lists, such as timm:resnet26.",
    )
    tree = st.container()
    targets = _targets(model) if model else []
    settings_ = _settings()
    return model, tree, RenderRequest(model, tuple(targets), **settings_) if model and targets else None


def _targets(model: str) -> list[str]:
    """The targets of this model, which another one does not have."""
    key = _key(model)
    if key not in st.session_state:
        st.session_state[key] = list(FIRST) if model == catalogue.MODELS[0] else []
    return st.multiselect(
        "Targets",
        st.session_state[key],
        key=key,
        accept_new_options=True,
        placeholder="LAYER:CHANNEL, LAYER, logits:NAME, ...",
        help="LAYER:CHANNEL, LAYER:3,7,10-19, LAYER:CHANNEL@Y,X (one neuron), LAYER (all of it), logits:NAME. "
        "Type any of them, or add some with the boxes above.",
    )


def _key(model: str) -> str:
    return f"targets of {model}"


def _layer_tree(model: str) -> None:
    """Every layer with its channel count, to search, and a box for channels of the one that is chosen."""
    try:
        rows = catalogue.layers(model, settings.allows_code())
    except FvfastError as error:
        widgets.problem(str(error))
        return
    text = st.text_input("Search layers", key="render search", placeholder="a part of a name or a kind: blocks.7, conv")
    found = catalogue.matching(rows, text)
    if not found:
        st.caption(f"None of the {len(rows)} layers has this in its name.")
        return
    names = {row.name: row for row in found}
    preferred = catalogue.DEFAULT_LAYER if catalogue.DEFAULT_LAYER in names else next(iter(names))
    layer = st.selectbox(
        f"Layer ({len(found)} of {len(rows)})",
        list(names),
        index=list(names).index(preferred),
        format_func=lambda name: names[name].label,
    )
    row = names[layer]
    channels, add = st.columns([3, 1.4], vertical_alignment="bottom")
    hint = "a class's name or number" if layer == "logits" else f"0 to {row.channels - 1}; empty for the whole layer"
    chosen = channels.text_input("Channels", key="render channels", placeholder=hint, help="7, or 3,7,10-19, or 7@3,4")
    name = spelling.layer(layer)
    target = f"{name}:{chosen.strip()}" if chosen.strip() else name
    add.button("Add", icon=":material/add:", width="stretch", on_click=_add, args=(model, target))


def _add(model: str, target: str) -> None:
    before = st.session_state.get(_key(model), [])
    st.session_state[_key(model)] = list(dict.fromkeys([*before, target]))


def _settings() -> dict[str, Any]:
    left, right = st.columns(2)
    found: dict[str, Any] = {
        "recipe": left.selectbox("Recipe", asking.RECIPES, help="docs/recipes.md shows what each is good at."),
        "size": right.number_input("Size, px", 16, 1024, None, placeholder=AS_RECIPE),
        "steps": left.number_input("Steps", 1, asking.MOST_STEPS, None, placeholder=AS_RECIPE),
        "seed": right.number_input("Seed", 0, 2**31 - 1, 0),
    }
    with st.expander("More"):
        left, right = st.columns(2)
        images = (AS_RECIPE, *asking.IMAGES)
        image = left.selectbox("Image", images, help="How the image is parameterised.")
        found["image"] = None if image == AS_RECIPE else image
        found["copies"] = right.number_input("Copies", 1, asking.MOST_IMAGES, 1, help="From seed, seed + 1, ...")
        if settings.allows_code():
            found["weights"] = st.text_input("Weights", "default", help="default, none, or a file.")
        else:
            found["weights"] = st.radio("Weights", asking.WEIGHTS, format_func=CODES.__getitem__, horizontal=True)
    return found


def _start(request: RenderRequest | None) -> None:
    pressed = st.button(
        "Render",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=request is None,
        help=None if request else "Add a target first.",
    )
    if pressed and request is not None:
        try:
            live.follow("render", jobs.desk().submit(request, settings.allows_code()))
        except FvfastError as error:
            widgets.problem(str(error))


def _elsewhere(request: RenderRequest | None) -> None:
    """The same request for a terminal and for Python; there without a request too, so that it stays open."""
    with st.expander("The same on the command line and in Python", key="render elsewhere", icon=":material/terminal:"):
        if request is None:
            st.caption("Add a target first.")
            return
        line, code = st.tabs(["Command", "Python"])
        line.code(request.command(settings.store_folder()), language="bash", wrap_lines=True)
        code.code(request.snippet(settings.store_folder()), language="python")


# What comes of it ------------------------------------------------------------------------------------------


def _invitation() -> None:
    with st.container(border=True):
        st.markdown(
            "**Nothing is being rendered.** A feature of the bundled network takes about half a minute on a "
            "CPU. It appears here as it grows, and in the gallery when it is done."
        )


def _ended(job: Job) -> None:
    """The images that a job has kept."""
    store = library.open_store()
    keys, targets, objectives = job.keys, job.targets, job.objectives
    if store is None:
        return
    cells, rest = live.cells_for(len(keys))
    for cell, key, target, objective in zip(cells, keys, targets, objectives, strict=True):
        with cell:
            _kept(store, key, target if objective is None else f"{target} · {figure(objective)}")
    with rest:
        live.chart(job)
        with st.container(horizontal=True):
            navigation.link("gallery", "See it in the gallery", icon=":material/grid_view:")
            if len(keys) > 1:
                navigation.link("compare", "Compare", icon=":material/compare:", a=keys[0], b=keys[1])


def _kept(store: Store, key: str, caption: str) -> None:
    """One image of the store, with its link."""
    try:
        picture = library.picture(store, library.find(store, key).image)
    except FvfastError:
        picture = None
    if picture is None:
        st.caption(f"{caption}: it is not in the store any more.")
        return
    st.image(planes.viewable(picture), caption=caption, width="stretch")
    navigation.link("feature", "Open", icon=":material/open_in_new:", key=key)
