from analyses.findings.page import main

if __name__ == "__main__":
    main()
