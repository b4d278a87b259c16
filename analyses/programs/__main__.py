from analyses.running.runner import main

if __name__ == "__main__":
    main("analyses.programs")
