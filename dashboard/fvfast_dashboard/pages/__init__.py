"""The pages of the dashboard, one a module; each draws itself by `show()`."""

from fvfast_dashboard.pages import compare, dream, feature, gallery, overview, render, speed

SHOW = {
    "overview": overview.show,
    "render": render.show,
    "dream": dream.show,
    "gallery": gallery.show,
    "feature": feature.show,
    "compare": compare.show,
    "speed": speed.show,
}
