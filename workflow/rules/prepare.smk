rule prepare:
    input:
        raw=lambda w: GRAPH.raw_files(w.dataset, w.block),
        # all data is looked at first, but a check that is done again does not by itself prepare anything again
        checked=ancient(GRAPH.checked),
    output:
        f"{RESULTS}/manifests/prepare/{{dataset}}/{{block}}.json",
    log:
        f"{RESULTS}/logs/prepare/{{dataset}}/{{block}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare/{{dataset}}/{{block}}.tsv"
    resources:
        mem_mb=lambda w, attempt: demands.volumes_mb(
            "prepare", STUDY, GRAPH.of_block(w.dataset, w.block), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "prepare", STUDY, GRAPH.of_block(w.dataset, w.block), attempt
        ),
    params:
        leaves=lambda w: short(leaves.prepare_leaves(STUDY, w.dataset)),
        accepted=lambda w: short({"accept": STUDY.datasets[w.dataset].accept}),
        code=leaves.stage_code("prepare"),
    shell:
        "{MSKD} prepare --study {STUDY_FILE} --dataset {wildcards.dataset} --block {wildcards.block} > {log} 2>&1"
