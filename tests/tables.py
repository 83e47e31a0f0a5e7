"""A comparison of two rows."""

from trn_plugin.experiments.plan import Column, Row, Scale, Table

TWO_ROWS = Table(
    name="t",
    title="T.",
    rows=(
        Row("Plain", "c.py", paper={"a/error": 9.5}),
        Row("More (much)", "c.py", ("x=1",), "Plain", {"a/error": 9.0}),
    ),
    columns=(Column("a/error", "error (%)", -1), Column("a/none", "none", 1)),
    scales={"small": Scale("Small.", ("s=1", "t=1"))},
)
