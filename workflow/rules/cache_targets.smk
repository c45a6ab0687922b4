rule cache_targets:
    input:
        teacher=lambda w: GRAPH.teacher(w.teacher, w.run),
        projection=lambda w: GRAPH.projection(w.teacher, w.run),
        prepared=f"{RESULTS}/manifests/prepare/{{dataset}}/{{block}}.json",
        raw=lambda w: GRAPH.said_files(w.teacher, w.dataset, w.block),
    output:
        f"{RESULTS}/manifests/cache_targets/{{teacher}}/{{run}}/{{dataset}}/{{block}}.json",
    log:
        f"{RESULTS}/logs/cache_targets/{{teacher}}/{{run}}/{{dataset}}/{{block}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cache_targets/{{teacher}}/{{run}}/{{dataset}}/{{block}}.tsv"
    threads: demands.inference_cores(STUDY)
    resources:
        gpu=STUDY.inference.gpus,
        nodes=1,
        mem_mb=lambda w, attempt: demands.asking_mb(
            STUDY, w.teacher, GRAPH.of_block(w.dataset, w.block), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "cache_targets", STUDY, GRAPH.of_block(w.dataset, w.block), attempt
        ),
    params:
        leaves=lambda w: short(leaves.cache_leaves(STUDY, w.teacher, w.run)),
        root=STUDY.cache.root or "",
        cases=lambda w: GRAPH.members(w.run, w.dataset),
        code=lambda w: leaves.stage_code(
            "cache_targets", teacher=STUDY.teachers[w.teacher].kind
        ),
    shell:
        "{MSKD} cache make --study {STUDY_FILE:q} --teacher {wildcards.teacher:q} --run {wildcards.run:q}"
        " --dataset {wildcards.dataset:q} --block {wildcards.block:q} --processes {resources.gpu:q} > {log:q} 2>&1"
