"""The published form of `report.json`, so that it can be checked and read without this package.

Read it as: `workbench schema report > report.schema.json`. Every field carries its meaning; `schema_version` changes
when a field changes its meaning or goes away, and reports of older versions stay readable.
Does not show: the readings; they lie beside the report as safetensors with their axes as JSON.
"""

from typing import Any

from workbench.evidence import SCHEMA_VERSION, AuditReport

FORMS: tuple[str, ...] = ()
"""A report is made by an audit, so there is no template to fill in."""


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12."""
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:unlearning-workbench:report:{SCHEMA_VERSION}",
    }
    return {**about, **AuditReport.model_json_schema(mode="serialization")}
