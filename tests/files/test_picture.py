"""Plots return their figure; a file is written where there is a path."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from blipcalc.files.picture import finished
from blipcalc.monitor.history import History
from blipcalc.monitor.history_plot import plot_history


def test_a_figure_is_returned_and_written_where_there_is_a_path(tmp_path):
    figure = Figure()
    assert finished(figure, None) is figure
    assert os.listdir(tmp_path) == []
    assert finished(figure, tmp_path / "a.png") is figure
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_history_is_drawn_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(plot_history(History(), 0.1), Figure)
    assert os.listdir(tmp_path) == []
