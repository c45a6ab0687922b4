rule check_data:
    input:
        [
            file
            for dataset in STUDY.datasets
            for block in GRAPH.blocks(dataset)
            for file in GRAPH.raw_files(dataset, block)
        ],
        GRAPH.segmentations(),
    output:
        GRAPH.checked,
    log:
        f"{RESULTS}/logs/check_data/study.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_data/study.tsv"
    threads: 8  # fewer where there are fewer cores
    resources:
        mem_mb=lambda w, threads, attempt: demands.checking_mb(
            STUDY, GRAPH.every_case(), threads, attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "check_data", STUDY, GRAPH.every_case(), attempt
        ),
    params:
        leaves=short(leaves.verdict_leaves(STUDY)),
        code=leaves.stage_code("check_data"),
    shell:
        "{MSKD} check-data {STUDY_FILE:q} --jobs {threads} --manifest > {log:q} 2>&1"
