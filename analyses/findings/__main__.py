from analyses.findings.findings import main

main()
