rule tabulate:
    input:
        GRAPH.metrics(),
        [path for run in STUDY.run_names for path in GRAPH.compared(run)],
    output:
        metrics=f"{RESULTS}/metrics.csv",
        report=report(
            f"{RESULTS}/report/index.html",
            caption="../report/study.rst",
            category="Study",
            labels={"page": "tables, plots, cases"},
        ),
    log:
        f"{RESULTS}/logs/tabulate.log",
    params:
        leaves=short(leaves.tabulate_leaves(STUDY)),
        code=leaves.stage_code("tabulate"),
    shell:
        "{MSKD} tabulate --study {STUDY_FILE:q} > {log:q} 2>&1"
