"""Results for publication: tables in Markdown, figures, numbers as CSV; without pictures or texts of the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from multidelete.judgement import findings, verdict
from multidelete.report.figures import comparison
from multidelete.report.pages.run import comparable, scored
from multidelete.report.pages.study import WIDE, headings, table, to_csv
from multidelete.report.studies.findings import VIEWS
from multidelete.report.studies.results import StudyResult
from multidelete.report.tables.groups import TIMES, cells, markdown
from multidelete.report.tables.groups import headings as main_headings
from multidelete.report.tables.groups import to_csv as groups_to_csv
from multidelete.report.tables.sections import Section, attacks, differences_to_retrain, probes
from multidelete.runs.groups import comparison_title
from multidelete.runs.reader import Run
from multidelete.utils.files import write_file

TEXT_FILE = "README.md"  # shown by hosts of repositories


def write_public(runs: Sequence[Run], out: Path, notes: Iterable[str] = (), commands: Iterable[str] = ()) -> list[Path]:
    """Publish runs with one comparison key.

    Args:
        runs: Runs of one task, data, model and size of D_f.
        out: Folder to write.
        notes: Notes to include.
        commands: Commands to include; by default those of the runs.
    """
    groups = comparable(runs)
    models = scored(runs, groups)
    figures = {
        "scatter.svg": comparison.scatter(groups, ids="scatter"),
        "cost.svg": comparison.cost_bars(groups, ids="cost"),
    }
    if models:
        figures["roc.svg"] = comparison.roc(models, ids="roc")
    seeds = sorted({seed for group in groups for seed in group.seeds})
    parts = [
        f"# {comparison_title(groups[0].comparison_key)}",
        (f"Seeds {', '.join(map(str, seeds))}; mean ± standard deviation" if len(seeds) > 1 else f"Seed {seeds[0]}")
        + f". Scores and AUCs in points, 0-100. {TIMES}",
        verdict.lead(groups),
        markdown(main_headings(groups), cells(groups)),
        "\n".join(f"- {note}" for note in notes),
        "![Test score against D_f AUC](scatter.svg)",
        *_section("Which attacks distinguish deleted pairs from unseen ones?", attacks(groups)),
        *(["![ROC curves of deleted against test pairs](roc.svg)"] if models else []),
        *_section("Paired differences to Retrain (mean, 95 % interval)", differences_to_retrain(groups)),
        *_section("Linear probes of each modality", probes(groups)),
        "## Verdicts",
        "\n".join(
            f"- **{each.label}.** " + " ".join(f"{finding.answer}: {finding.details}" for finding in each.findings)
            for each in verdict.verdicts(groups)
        ),
        findings.THRESHOLDS,
        "## Cost",
        "![Time of preparation, updates and evaluation](cost.svg)",
        "## Made by",
        _code(commands or [str(run.provenance["command"]) for run in runs if "command" in run.provenance]),
        *_versions(runs),
    ]
    return _write(out, parts, figures | {"table.csv": groups_to_csv(groups)})


def write_public_study(result: StudyResult, out: Path) -> list[Path]:
    """Publish a study."""
    view = VIEWS[result.name]
    parts = [
        f"# {view.title}",
        view.question,
        "\n".join(f"- {sentence}" for sentence in (*view.sentences(result), *result.notes)),
        f"![{view.title}](figure.svg)",
        markdown(headings(result), table(result)),
        "## Made by",
        _code(result.commands),
        *_versions([run for line in (*result.references, *result.lines) for run in line.runs]),
    ]
    return _write(out, parts, {"figure.svg": view.figure(result, "figure", WIDE), "table.csv": to_csv(result)})


def _section(title: str, section: Section) -> list[str]:
    headings, lines = section
    return [f"## {title}", markdown(headings, (line for _, line in lines))] if lines else []


def _code(commands: Iterable[str]) -> str:
    return "```\n" + "".join(f"{command}\n" for command in commands) + "```"


def _versions(runs: Sequence[Run]) -> list[str]:
    """Versions of the package and hashes of the data."""
    facts = [run.provenance for run in runs if run.provenance]
    commits = sorted({str(each["commit"])[:12] for each in facts if each.get("commit")})
    result = sorted({f"multidelete {each['version']}" for each in facts if each.get("version")})
    data = sorted({f"data {str(each['data_hash'])[:12]}" for each in facts if each.get("data_hash")})
    parts = [*result, *(["commit " + ", ".join(commits)] if commits else []), *data]
    return ["; ".join(parts) + "."] if parts else []


def _write(out: Path, parts: Iterable[str], files: dict[str, str]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    texts = {TEXT_FILE: "\n\n".join(part.strip() for part in parts if part) + "\n"}
    texts |= {name: text.rstrip("\n") + "\n" for name, text in files.items()}
    for name, text in texts.items():
        write_file(out / name, text)
    return [out / name for name in texts]
