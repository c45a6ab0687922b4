"""What a figure shows, by the marks and numbers that are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mskd.evaluation.figures import difference_plot
from mskd.evaluation.frames import MEAN_ORGAN


def differences(**points: float) -> pd.DataFrame:
    """Return rows of `difference_table`: row → Dice points, with an interval of two points."""
    return pd.DataFrame(
        {"method": name, "dataset": "other", "role": "external", "organ": MEAN_ORGAN, "measure": "dice"}
        | {"difference": point / 100, "ci_low": point / 100 - 0.01, "ci_high": point / 100 + 0.01, "p_holm": 0.5}
        for name, point in points.items()
    )


@pytest.mark.parametrize(("far", "said"), [(-53.6, "−53.6"), (53.6, "+53.6")])
def test_a_row_that_is_far_off_leaves_the_others_room(far: float, said: str) -> None:
    table = differences(near=-1, far=far, other=2)
    figure = difference_plot(table, "other", "external", methods=["near", "far", "other"], reference_label="MS-KD")
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [said]
    assert max(map(abs, axes.get_xlim())) < 20
    drawn = {float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "o"}
    assert drawn == {-1, 2}


def test_rows_that_differ_alike_are_all_drawn_in_their_places() -> None:
    table = differences(a=-30, b=25, c=0)
    figure = difference_plot(table, "other", "external", methods=["a", "b", "c"], reference_label="MS-KD")
    assert figure is not None
    assert not figure.axes[0].texts


def test_equal_rows_lie_on_the_line() -> None:
    table = differences(a=0, b=0)
    figure = difference_plot(table, "other", "external", methods=["a", "b"], reference_label="MS-KD")
    assert figure is not None
    assert not figure.axes[0].texts
