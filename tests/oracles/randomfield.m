% Numbers of SPM for tests of random fields; needs SPM 12 for Octave (github.com/spm/spm12):
%   octave-cli --path SPM12 randomfield.m > randomfield.tsv
volumes = {[1 33.8607993 373.585962 1323.44003], [-3 5.5 2.25 0.75], [2 12 40 0], [1 7 0 0]};
cases = {'Z', [1 Inf], [1.5 2.3 3.09 4 5.5 8]; ...
         'T', [1 28], [1.5 3.4 4.5 6 9]; ...
         'T', [1 7.5], [2 5 12 30]; ...
         'F', [1 28], [3 12 30 70]; ...
         'F', [2 28], [3 9 20 50]; ...
         'F', [3 11.5], [4 12 40 150]; ...
         'F', [6 200], [2 4 8 14]};
printf('test\tdf1\tdf2\theight\tR0\tR1\tR2\tR3\tp\tp_or_bonferroni\textent\tp_cluster\tp_one_cluster\tn_clusters\tmean_extent\tthreshold\n');
for v = 1:numel(volumes)
    R = volumes{v};
    for i = 1:size(cases, 1)
        [test, df, heights] = cases{i, :};
        u = spm_uc_RF(0.05, df, test, R, 1);
        for z = heights
            k = 0.4;
            p = spm_P_RF(1, 0, z, df, test, R, 1);
            both = spm_P(1, 0, z, df, test, R, 1, 20000);
            [pk, pn, ec, ek] = spm_P_RF(1, k, z, df, test, R, 1);
            printf('%s\t%g\t%g\t%g\t%.17g\t%.17g\t%.17g\t%.17g\t', test, df, z, R);
            printf('%.17g\t%.17g\t%g\t%.17g\t%.17g\t%.17g\t%.17g\t%.17g\n', p, both, k, pk, pn, ec, ek, u);
        end
    end
end
