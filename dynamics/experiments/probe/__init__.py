"""The probe: untrained blocks whose inputs share a bias."""
