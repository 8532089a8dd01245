"""Result files as tables, charts and pages."""

REPORTS = {
    "report": "one HTML page of result files, with figures",
    "compare": "what changed between two result files, and which changes are more than chance",
}
