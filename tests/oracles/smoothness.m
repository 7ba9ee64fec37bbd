% FWHM and resel counts of SPM for tests/test_wager2008_spm.py; needs SPM 12 for Octave
% (github.com/spm/spm12).  In a folder with mask.nii and residual_*.nii, which are e / sqrt(e'e / 28)
% of the 30 images, NaN outside the mask, with an empty voxel more at each side:
%   octave-cli --path SPM12 smoothness.m
files = dir('residual_*.nii');
[FWHM, V, R] = spm_est_smoothness(char(files.name), 'mask.nii', [30 28]);
printf('FWHM %.10g %.10g %.10g, R %.10g %.10g %.10g %.10g\n', FWHM, R);
