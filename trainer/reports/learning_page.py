"""Writes the learning report: learning-report.json for programs, learning-report.html for people."""

from __future__ import annotations

import json

from trainer.atomic import write_text
from trainer.reports.learning import Learning
from trainer.run_dir import RunDir


def write(found: Learning, run_dir: RunDir) -> None:
    write_text(run_dir.learning_numbers, json.dumps(found.as_dict(), indent=1))
    write_text(run_dir.learning_page, page(found, run_dir.name))


def page(found: Learning, name: str) -> str:
    return f"<!doctype html><title>{name}</title><p>{found.verdict}</p>"
