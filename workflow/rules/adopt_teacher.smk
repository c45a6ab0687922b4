rule adopt_teacher:
    input:
        lambda w: GRAPH.teacher_files(w.teacher),
    output:
        f"{RESULTS}/manifests/adopt_teacher/{{teacher}}/given.json",
    log:
        f"{RESULTS}/logs/adopt_teacher/{{teacher}}/given.log",
    benchmark:
        f"{RESULTS}/benchmarks/adopt_teacher/{{teacher}}/given.tsv"
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: demands.adopting_mb(
            GRAPH.teacher_files(w.teacher), attempt
        ),
        runtime=lambda w, attempt: 10 * attempt,
    params:
        leaves=lambda w: short(leaves.adopt_leaves(STUDY, w.teacher)),
        code=lambda w: leaves.stage_code(
            "adopt_teacher", teacher=STUDY.teachers[w.teacher].kind
        ),
    shell:
        "{MSKD} adopt-teacher --study {STUDY_FILE:q} --teacher {wildcards.teacher:q} > {log:q} 2>&1"
