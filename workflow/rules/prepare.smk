rule prepare:
    input:
        raw=lambda w: GRAPH.raw_files(w.dataset, w.block),
        # not ancient(): Snakemake 9.27 then overlooks a job's other reasons to run while the check runs
        checked=GRAPH.checked,
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
        "{MSKD} prepare --study {STUDY_FILE:q} --dataset {wildcards.dataset:q} --block {wildcards.block:q} > {log:q} 2>&1"
