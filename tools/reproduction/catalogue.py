"""All tables by name."""

from __future__ import annotations

from reproduction.scarce import SCARCE
from reproduction.study import STUDY
from reproduction.tables import TABLE1, TABLE2, TABLE3

__all__ = ["TABLES"]

TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, STUDY, SCARCE)}
