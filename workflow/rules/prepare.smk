rule prepare:
    input:
        lambda w: GRAPH.raw_files(w.dataset, w.block),
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
        code=leaves.stage_code("prepare"),
    shell:
        "{MSKD} prepare --study {STUDY_FILE} --dataset {wildcards.dataset} --block {wildcards.block} > {log} 2>&1"
