rule predict:
    input:
        student=f"{RESULTS}/manifests/train_student/{{method}}/{{run}}.json",
        prepared=f"{RESULTS}/manifests/prepare/{{dataset}}/{{block}}.json",
    output:
        f"{RESULTS}/manifests/predict/{{method}}/{{run}}/{{dataset}}/{{block}}.json",
    log:
        f"{RESULTS}/logs/predict/{{method}}/{{run}}/{{dataset}}/{{block}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/{{method}}/{{run}}/{{dataset}}/{{block}}.tsv"
    threads: demands.inference_cores(STUDY)
    resources:
        gpu=STUDY.inference.gpus,
        nodes=1,
        mem_mb=lambda w, attempt: demands.inference_mb(
            "predict", STUDY, GRAPH.of_block(w.dataset, w.block), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "predict", STUDY, GRAPH.of_block(w.dataset, w.block), attempt
        ),
    params:
        leaves=short(leaves.predict_leaves(STUDY)),
        cases=lambda w: GRAPH.members(w.run, w.dataset),
        code=leaves.stage_code("predict"),
    shell:
        "{MSKD} predict --study {STUDY_FILE:q} --method {wildcards.method:q} --run {wildcards.run:q}"
        " --dataset {wildcards.dataset:q} --block {wildcards.block:q} --processes {resources.gpu:q} > {log:q} 2>&1"
