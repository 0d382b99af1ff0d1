"""The same reading on many machines, for those who have Apache Beam."""

import itertools

from clidmu_tf.data.builders import files

# Parts that a split is cut into; each worker reads the lists anew for its part.
PARTS = 256


def examples(split, make_entries, examine, report):
    """Makes the Beam transform that reads a split.

    Args:
        split: Name of the split.
        make_entries: Function without arguments that yields `Entry`s.
        examine: `files.examine` with a root, which every worker must see under its
            path.
        report: File that names what was left out.

    Returns:
        A `beam.PTransform` to `(key, example)`.
    """
    import apache_beam as beam

    @beam.ptransform_fn
    def read(pipeline):
        examined = (
            pipeline
            | beam.Create(range(PARTS))
            | beam.Reshuffle()
            | beam.FlatMap(part, make_entries)
            | beam.Map(examine)
        )
        (
            examined
            | "Bad" >> beam.Filter(lambda pair: pair[0].problem)
            | "Lines" >> beam.Map(lambda pair: files.report_line(split, pair[0]))
            | beam.io.WriteToText(report, shard_name_template="")
        )
        return (
            examined
            | "Good" >> beam.Filter(lambda pair: not pair[0].problem)
            | "Examples" >> beam.Map(lambda pair: files.example(*pair))
        )

    return read()


def part(index, make_entries):
    """Every `PARTS`-th entry from an index on."""
    return itertools.islice(files.once(make_entries), index, None, PARTS)
