"""Optional extras with dependencies of their own: webhooks, alerts, OpenLineage, ML-BOM."""
