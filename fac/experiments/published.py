"""What the paper reports for RQ1, RQ2 and RQ5, as printed (arXiv 2602.10388, version 4), with what
does not fit together below each table. Figures only; ~ is read off a plot."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One table or figure of the paper."""

    experiment: str
    """Which of our experiments asks the same."""

    source: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """A cell a column; mean±standard deviation where it is printed so."""

    notes: tuple[str, ...] = ()
    """What contradicts another part of the paper, its site or its code."""


TESTED = (
    "The toxicity test set is ToxicChat: the paper says 2,853 queries with 7.33 % toxic, its site "
    "10,165."
)
STEERING = (
    "Spreads such as 16.67±38.44 and 6.00±28.35 are larger than most differences between methods.",
    "Steering is called fine-tuning in the text; what was computed are CAA vectors. The released "
    "code flips the survival behaviour's sign against its prompt, and one example of sycophancy "
    "contradicts the sign that its prompt defines.",
)
HEAD_ONLY = (
    "Ablations are head-only (49.12), while Table 1 is LoRA (62.60); most captions do not say so."
)
HIT_RATE = (
    "What is called FAC is the hit rate among features missing at threshold 0 (n of 214 for "
    "toxicity), not the share of the anchor's features that the definition gives."
)

PUBLISHED = (
    Published(
        "rq1",
        "Table 1",
        "Eight methods on four tasks, LoRA, three seeds (instruction following: one)",
        (
            *("Method", "Toxicity, AUPRC", "Reward, accuracy", "Sycophancy, SCR"),
            *("Survival, SCR", "LC win rate", "Win rate"),
        ),
        (
            ("Baseline", "38.97±2.74", "62.90±1.93", "16.67±38.44", "-2.00±6.93", "1.80", "1.80"),
            (
                "Full dataset",
                "49.59±2.29",
                "71.21±2.18",
                "28.00±0.00",
                "14.00±0.00",
                "7.21",
                "5.18",
            ),
            ("Alpaca", "50.59±3.43", "63.53±1.63", "7.33±19.73", "3.33±9.24", "6.22", "3.61"),
            (
                *("Evol-Instruct", "49.47±3.35", "66.00±1.92", "18.00±14.00", "14.67±4.16"),
                *("7.37", "4.84"),
            ),
            ("Magpie", "44.18±4.61", "72.75±2.19", "5.33±26.63", "16.67±11.37", "5.98", "6.65"),
            (
                *("CoT-Self-Instruct", "50.86±3.44", "72.62±0.89", "17.33±42.77", "17.33±7.02"),
                *("7.36", "7.70"),
            ),
            ("SAO", "50.51±3.04", "68.97±2.38", "14.67±28.31", "23.33±10.26", "9.46", "7.95"),
            (
                *("Prismatic Synthesis", "52.11±6.36", "70.73±1.89", "16.67±11.37"),
                *("16.00±14.42", "7.68", "8.94"),
            ),
            ("SynAlign", "58.83±3.80", "70.69±2.34", "21.33±19.63", "0.00±7.21", "11.26", "11.06"),
            (
                *("FAC Synthesis", "62.60±4.41", "76.22±1.03", "40.67±4.16", "40.00±0.00"),
                *("20.27", "21.26"),
            ),
        ),
        (
            TESTED,
            *STEERING,
            "The baseline's toxicity and reward are those of Table 13, which is head-only.",
            "The site has a win rate of 21.4 where the table has 21.26.",
            "200 samples are kept for toxicity, one a feature that fires, yet 175 of 214 features "
            "are reported as covered.",
        ),
    ),
    Published(
        "rq1",
        "Table 13",
        "The same with a head on the frozen model",
        ("Method", "Toxicity, AUPRC", "Chat", "Chat-Hard", "Safety", "Reasoning", "Average"),
        (
            (
                *("Baseline", "38.97±2.74", "67.04±3.02", "64.99±2.82", "51.89±8.96"),
                *("67.68±70.09", "62.90±1.93"),
            ),
            (
                *("Full dataset", "44.31±1.14", "63.50±2.10", "64.54±.25", "59.86±.24"),
                *("70.72±.37", "64.66±.56"),
            ),
            (
                *("Alpaca", "44.15±.73", "73.09±.16", "68.64±.00", "65.95±.59", "61.89±.21"),
                "67.39±.10",
            ),
            (
                *("Evol-Instruct", "45.07±.96", "67.97±.16", "71.27±.45", "59.77±.42"),
                *("60.32±.64", "64.83±.21"),
            ),
            (
                *("Magpie", "37.97±.35", "79.33±.48", "65.28±.25", "65.68±.36", "70.67±.23"),
                "70.24±.37",
            ),
            (
                *("CoT-Self-Instruct", "43.68±.93", "75.79±.58", "72.00±.34", "66.98±.34"),
                *("71.94±.24", "71.68±.12"),
            ),
            (
                *("SAO", "42.76±.50", "82.50±1.32", "65.94±.64", "64.14±.39", "69.73±.27"),
                "70.58±.58",
            ),
            (
                *("Prismatic Synthesis", "45.43±.88", "70.39±.56", "70.03±.13", "66.31±.16"),
                *("72.86±.47", "69.90±.16"),
            ),
            (
                *("SynAlign", "42.68±.48", "75.89±.32", "65.86±.13", "69.28±.16", "76.60±.47"),
                "71.91±.26",
            ),
            (
                *("FAC Synthesis", "49.12±.49", "82.68±.00", "69.59±.34", "74.32±.36"),
                *("72.46±.78", "74.76±.23"),
            ),
        ),
        (TESTED, "The baseline's reasoning is printed with a spread of 70.09."),
    ),
    Published(
        "rq1",
        "Table 14",
        "Reward by section, LoRA",
        ("Method", "Chat", "Chat-Hard", "Safety", "Reasoning", "Average"),
        (
            ("Alpaca", "75.98±3.15", "64.40±2.24", "64.82±1.33", "48.92±1.60", "63.53±1.63"),
            ("Evol-Instruct", "76.16±3.91", "69.81±2.03", "61.31±3.86", "56.74±3.46", "66.00±1.92"),
            ("Magpie", "93.94±1.13", "64.62±2.98", "66.80±6.31", "65.63±2.43", "72.75±2.19"),
            (
                *("CoT-Self-Instruct", "88.18±.98", "71.27±1.16", "70.34±2.77", "59.59±2.21"),
                "72.62±.89",
            ),
            ("SAO", "94.13±1.95", "62.57±1.25", "52.79±1.03", "66.39±7.84", "70.69±2.34"),
            (
                *("Prismatic Synthesis", "82.77±1.13", "68.27±2.86", "69.28±3.47", "62.59±4.26"),
                "70.73±1.89",
            ),
            ("SynAlign", "82.78±10.9", "59.50±1.99", "64.64±1.80", "75.84±4.50", "70.69±2.34"),
            ("FAC Synthesis", "94.41±.48", "72.22±.99", "75.63±1.18", "62.60±3.28", "76.22±1.03"),
        ),
        (
            "The sections of CoT-Self-Instruct have a mean of 72.34, not 72.62.",
            "SAO's average is printed as SynAlign's 70.69±2.34; its sections have a mean of 68.97, "
            "which is what Table 1 has.",
            "Its row of the full dataset repeats the head-only 64.66, while Table 1 has 71.21.",
        ),
    ),
    Published(
        "rq2",
        "Figure 3",
        "Coverage and AUPRC of eight methods, toxicity",
        ("Method", "FAC, %", "AUPRC"),
        (
            ("Magpie", "49.53", "44.18"),
            ("Evol-Instruct", "55.14", "49.47"),
            ("CoT-Self-Instruct", "57.01", "50.86"),
            ("Alpaca", "57.94", "50.59"),
            ("SAO", "59.35", "50.51"),
            ("Prismatic Synthesis", "60.75", "52.11"),
            ("SynAlign", "65.42", "58.83"),
            ("FAC Synthesis", "81.78", "62.60"),
        ),
        (
            "The correlation is r = .95 in the figure and r = .93 elsewhere in the text; these "
            "eight points give .950, and .963 without FAC Synthesis. Neither has an interval.",
            HIT_RATE,
        ),
    ),
    Published(
        "rq2",
        "Table 8",
        "Correlation of coverage and performance over methods",
        ("", "Toxicity", "Reward", "Sycophancy", "Survival", "Instructions, WR"),
        (
            ("Pearson", ".95", ".85", ".88", ".79", ".72"),
            ("Spearman", ".90", ".84", ".80", ".65", ".88"),
        ),
        (
            "Its caption calls FAC by another name than the text does.",
            "The coverage of each method is published for toxicity alone, so the others cannot be "
            "computed again.",
        ),
    ),
    Published(
        "rq2",
        "Figure 9",
        "Other measures of diversity and AUPRC, toxicity",
        ("Measure", "Pearson", "Spearman"),
        (
            ("Distinct-1", "-.58", "-.52"),
            ("Distinct-2", "-.33", "-.33"),
            ("Bigram entropy", ".57", ".50"),
            ("Self-BLEU-4", ".26", ".33"),
            ("Distinct-2 of parts of speech", "-.66", "-.43"),
            ("Entropy of dependency relations", ".35", ".14"),
            ("Mean sentence length", "-.30", "-.45"),
            ("Trace of the covariance", ".36", ".12"),
            ("Cosine distance of pairs", ".37", ".12"),
            ("Entropy of clusters", ".16", "-.07"),
            ("FAC", ".95", ".90"),
        ),
    ),
    Published(
        "rq2",
        "Table 11",
        "Variants of FAC, toxicity",
        ("Variant", "FAC, %", "AUPRC"),
        (
            ("binary", "81.78", "62.60"),
            ("by frequency", "79.44", "61.74"),
            ("by magnitude", "83.65", "63.01"),
        ),
        ("How frequency and magnitude are normalised is not said.",),
    ),
    Published(
        "rq2",
        "Table 12",
        "What coverage is counted in, toxicity",
        ("Representation", "AUPRC"),
        (
            ("baseline", "38.97"),
            ("k-means clusters of embeddings", "45.57"),
            ("random SAE features", "50.61"),
            ("SAE features, FAC", "62.60"),
        ),
    ),
    Published(
        "rq5",
        "Figure 6",
        "Threshold, toxicity, head-only",
        ("Threshold", "Missing features", "AUPRC"),
        (
            ("0.0", "214", "49.12"),
            ("0.5", "182", "46.85"),
            ("1.0", "108", "44.20"),
            ("1.5", "110", "45.47"),
            ("2.0", "112", "45.98"),
            ("4.0", "60", "43.23"),
        ),
        (
            "Best is 0; the text calls thresholds of 1 to 2 favourable, where AUPRC only rises "
            "within that stretch.",
            HEAD_ONLY,
        ),
    ),
    Published(
        "rq5",
        "Table 4",
        "Temperature of the writer, AUPRC, toxicity, head-only",
        ("Temperature", "Llama-3.1-8B", "GPT-4o mini"),
        (
            ("0.4", "46.71±.31", "44.86±.84"),
            ("0.6", "47.80±.32", "44.88±.78"),
            ("0.8", "49.12±.49", "44.90±.57"),
            ("1.0", "47.71±.25", "45.04±.48"),
            ("1.2", "46.40±.57", "44.55±.70"),
        ),
        (HEAD_ONLY,),
    ),
    Published(
        "rq5",
        "Figure 7",
        "Samples a feature, with DES = AUPRC / log10(samples), toxicity, head-only",
        ("A feature", "Samples", "AUPRC", "DES"),
        (
            ("1", "200", "49.12±.49", "21.35"),
            ("2", "400", "49.16±.75", "18.89"),
            ("3", "600", "49.41±.28", "17.79"),
            ("4", "800", "49.75±.36", "17.14"),
            ("5", "1000", "49.91±.53", "16.64"),
        ),
        (HEAD_ONLY,),
    ),
    Published(
        "rq5",
        "Table 9",
        "Share of missing features that is used",
        (
            *("Share", "Toxicity, AUPRC", "Reward, accuracy", "Sycophancy, SCR"),
            *("Survival, SCR", "LC win rate", "Win rate"),
        ),
        (
            ("30 %", "45.60±.52", "68.64±.59", "6.00±28.35", "21.33±18.48", "9.39", "10.19"),
            ("60 %", "46.62±.38", "71.64±.41", "18.67±20.03", "28.67±10.07", "16.72", "18.06"),
            ("100 %", "49.12±.49", "74.76±.23", "40.67±4.16", "40.00±0", "20.27", "21.26"),
        ),
        (STEERING[0], HEAD_ONLY),
    ),
    Published(
        "rq5",
        "Figure 4",
        "The same share, with as many samples as features or always 200, AUPRC, toxicity",
        ("Share", "One a feature", "Always 200"),
        (
            ("30 %", "45.60", "~46.10"),
            ("60 %", "46.62", "~47.0"),
            ("90 %", "~48.6", "~48.8"),
            ("100 %", "49.12", "49.12"),
        ),
        (HEAD_ONLY,),
    ),
    Published(
        "rq5",
        "Table 10",
        "Hit rate of one step and of two, %",
        ("Threshold, steps", "Toxicity", "Reward", "Sycophancy", "Survival", "Instructions"),
        (
            ("0.0, one", "69.6", "76.60", "60.00", "42.86", "85.18"),
            ("0.0, two", "81.8", "87.82", "80.00", "71.43", "91.37"),
            ("1.0, one", "41.1", "48.40", "20.00", "28.57", "56.74"),
            ("1.0, two", "45.8", "52.24", "60.00", "57.14", "61.58"),
            ("2.0, one", "31.8", "38.14", "20.00", "14.29", "47.36"),
            ("2.0, two", "40.7", "41.99", "20.00", "42.86", "52.89"),
        ),
        (
            "One step at threshold 1 is 40.8 in the text; the table has 41.1, which is 88 of 214.",
            "Sycophancy has 5 features and survival 7, so one feature is 20 and 14 points.",
            HIT_RATE,
        ),
    ),
    Published(
        "rq5",
        "Table 7",
        "The SAE, toxicity, LoRA",
        ("Width", "K", "L0", "Reconstruction loss", "AUPRC"),
        (
            ("16384", "20", "19.75", ".1687", "59.74"),
            ("65536", "20", "19.41", ".1591", "62.60"),
            ("131072", "20", "19.21", ".1553", "62.67"),
            ("65536", "10", "9.80", ".1819", "61.62"),
            ("65536", "40", "37.68", ".1378", "62.89"),
        ),
        ("Of layers only a difference is printed: 16 beats 24 by 3.46 points.",),
    ),
)
