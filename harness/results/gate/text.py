"""A verdict as text: for a terminal, a pull request, and what reads JUnit."""

from collections.abc import Iterator
from xml.etree import ElementTree

from .. import markdown as md
from .findings import Finding, Verdict, apart


def lines(verdict: Verdict) -> list[str]:
    """What a terminal shows: everything wrong, remarks, the verdict last."""
    return [*map(str, verdict.wrong), *(f"note: {remark}" for remark in verdict.remarks), str(verdict)]


def markdown(verdict: Verdict) -> str:
    """A summary for a pull request or $GITHUB_STEP_SUMMARY."""
    text = [f"## Check: {verdict}", ""]
    if verdict.wrong:
        text += md.heading(["metric", "method", "network", "what", "before", "now", "samples"])
        text += [md.row(_markdown_cells(finding)) for finding in verdict.wrong]
    return "\n".join([*text, "", *(f"- {remark}" for remark in verdict.remarks), ""])


def _markdown_cells(finding: Finding) -> Iterator[str]:
    yield from (finding.part[name] for name in ("metric", "method", "model"))
    if finding.rows:
        first = finding.rows[0]
        yield from (first.place + finding.more, *apart(first.before, first.now))
    else:
        yield from (finding.why or "means as before", "", "")
    yield "; ".join(map(str, finding.moves))


def junit(verdict: Verdict) -> bytes:
    """One test case for each metric of each cell; a change is a failure, a missing or failed one an error."""
    failures, errors = verdict.count("changed"), verdict.count("missing") + verdict.count("failed")
    counts = {"tests": str(len(verdict.findings)), "failures": str(failures), "errors": str(errors)}
    suite = ElementTree.Element("testsuite", {"name": "check", **counts})
    for finding in verdict.findings:
        _add_case(suite, finding)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n"


def _add_case(suite: ElementTree.Element, finding: Finding) -> None:
    place = ".".join(finding.part[name] for name in ("model", "dataset", "method"))
    case = ElementTree.SubElement(suite, "testcase", {"classname": place, "name": finding.part["metric"]})
    if finding.kind != "same":
        tag = "failure" if finding.kind == "changed" else "error"
        ElementTree.SubElement(case, tag, {"message": str(finding)}).text = "\n".join(map(str, finding.rows))
