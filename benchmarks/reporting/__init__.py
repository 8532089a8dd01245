"""Result files as tables, charts and pages."""
