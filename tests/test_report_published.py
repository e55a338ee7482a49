"""Our figures beside the published ones: which sets are which, and what makes a row."""

import numpy as np
import pytest
from result_files import beyond, results_of, zero_shot
from test_report_results import page_of

from bioclip2_jax.report import published, tables


@pytest.mark.parametrize("table", [published.ZERO_SHOT, published.BEYOND_SPECIES])
def test_published_means_are_those_of_their_rows(table):
    for name, row in table.rows.items():
        assert len(row) == len(table.columns) + 1, name
        assert abs(np.mean(row[:-1]) - row[-1]) <= 0.051, name


@pytest.mark.parametrize(
    ("annotations", "data", "key"),
    [
        ("annotation/nabirds.csv", "pictures", "nabirds"),
        ("nabird/metadata.csv", "nabird/images", "nabirds"),
        ("meta-album/PLK_Mini/val/metadata.csv", None, "plankton"),
        ("meta-album/INS_2_Mini/metadata.csv", None, "insects2"),
        ("CameraTrap/ENA24-balanced.csv", "images", "ena24"),
        ("lists/mine.csv", "Rare-Species/", "rarespecies"),
        (None, "data/Fungi", "fungi"),
        ("lists/mine.csv", "data/birds", None),
        (None, "island/birds", None),
        (None, None, None),
    ],
)
def test_sets_are_known_by_the_names_they_go_by(annotations, data, key):
    found = published.find_set(annotations, data)
    assert (found.names[0] if found else None) == key


def test_no_two_sets_share_a_name():
    every = [
        name
        for table in (published.ZERO_SHOT, published.BEYOND_SPECIES)
        for column in table.columns
        for one in column.sets
        for name in one.names
    ]
    assert len(every) == len(set(every))


def test_a_set_that_was_not_measured_is_a_dash_and_leaves_no_mean(tmp_path):
    told = zero_shot(0.25, 1000, 25, annotations="fungi.csv")
    [row] = tables.paper_rows(published.ZERO_SHOT, results_of(tmp_path, [told]))
    assert [cell is None for cell in row.cells] == [c.title != "Fungi" for c in
                                                    published.ZERO_SHOT.columns]  # fmt: skip
    assert row.mean is None
    assert row.cells[6] == tables.Cell(0.25, 0.15, 0.35)


def test_the_camera_trap_column_needs_all_five_sets(tmp_path):
    column = published.ZERO_SHOT.columns[4]
    told = [
        zero_shot(0.1 * (i + 2), one.images, 20, annotations=f"{one.names[1]}.csv")
        for i, one in enumerate(column.sets)
    ]
    [row] = tables.paper_rows(published.ZERO_SHOT, results_of(tmp_path, told[:4]))
    assert row.cells[4] is None
    [row] = tables.paper_rows(published.ZERO_SHOT, results_of(tmp_path, told))
    assert row.cells[4].value == pytest.approx(0.4)
    # Half-widths of 0.1 of five independent sets.
    assert row.cells[4].low == pytest.approx(0.4 - 0.1 / np.sqrt(5))
    assert row.cells[4].odd == ""


def test_a_full_row_has_the_mean_of_its_columns(tmp_path):
    sizes = {"fishnet": 94_532, "newt": 36_032, "awa2": 37_322, "herbarium19": 34_225}
    told = [beyond(task, [0.2, 0.4], size) for task, size in sizes.items()]
    told.append(beyond("plantdoc", [0.8, 1.0], 2_598))
    [row] = tables.paper_rows(published.BEYOND_SPECIES, results_of(tmp_path, told))
    assert row.mean.value == pytest.approx((4 * 0.3 + 0.9) / 5)
    assert row.mean.std == pytest.approx(0.1 / np.sqrt(5)) and row.mean.odd == ""


def test_a_part_of_a_set_is_marked(tmp_path):
    told = zero_shot(0.9, 40, 5, annotations="nabirds.csv")
    [row] = tables.paper_rows(published.ZERO_SHOT, results_of(tmp_path, [told]))
    assert row.cells[0].odd == "nabirds: 40 pictures, not 48,562 and 5 classes, not 555"
    assert "90.0†" in page_of(tmp_path) and "† Not the published set: nabirds: 40" in page_of(
        tmp_path
    )


def test_two_protocols_are_two_rows(tmp_path):
    told = [beyond("awa2", [0.4], 37_322), beyond("awa2", [0.6], 37_322, "corrected")]
    rows = tables.paper_rows(published.BEYOND_SPECIES, results_of(tmp_path, told))
    assert [(row.note, row.cells[2].value) for row in rows] == [
        ("protocol corrected", 0.6),
        ("protocol v2", 0.4),
    ]
    assert all(row.cells[2].std is None for row in rows)  # of one run
