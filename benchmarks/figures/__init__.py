"""What came out: latencies as a `histogram`, rounds put together (`compare`), kept (`results`), shown (`report`, `chart`)."""
