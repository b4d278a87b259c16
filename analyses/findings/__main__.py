from analyses.findings.page import main

main()
