"""The demo: plant label errors among digits, then train as any team would."""
