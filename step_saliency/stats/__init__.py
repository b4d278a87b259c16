"""Problems as the unit: resampling, tables of estimates with intervals. No model, no map."""
