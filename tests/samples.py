"""Reads Prometheus' text format, with the parser of Prometheus' own client."""

from prometheus_client.parser import text_string_to_metric_families as parse


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of the labels' names, to value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }
