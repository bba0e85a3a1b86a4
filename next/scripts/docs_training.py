import re
p='llasa_lite/docs/training.md'; s=open(p).read()
old=s[s.index("- **Codes that say what is said**"):s.index("- **The half that hears the wave**")]
new='''- **Codes that say what is said**: `train codec --reading 0.3`, where clips have transcripts. A small recogniser reads the
  codes, and its loss reaches the encoder. From the codec before nano's on, on one core: 75 minutes by a trial of the
  same losses on 5.5 hours of speech, then an hour by this command on 8.0 hours, with 400 more synthetic voices. nano's
  codec learned this way ([card](../nano/README.md)).

  | after the codec | words wrong before | 75 minutes | 135 minutes | similarity before | 75 minutes | 135 minutes |
  |---|---|---|---|---|---|---|
  | 40 clips of the corpus' test split | 7.2 % | 5.5 % | 5.2 % | 0.893 | 0.871 | 0.896 |
  | 40 of twenty other synthetic voices | 18.7 % | 14.2 % | 17.1 % | 0.750 | 0.766 | 0.808 |
  | 29 people, ten seconds each, against the recording | 44.9 % | 37.4 % | 33.0 % | 0.701 | 0.716 | 0.719 |

  The language model has to learn the new codes (below); discriminators come after, for their work is undone (DNSMOS on
  the first 40: 3.22, then 2.92 and 3.12).
  Such codes are easier to read for others, too: after 30 minutes of it (1,300 steps, 5.4 hours of speech) a small CTC
  recogniser, trained on the codes of 3.8 hours, has 22.7 % of the letters of voices kept out wrong instead of 25.9 %
  (300 clips; 0.89 nats a letter instead of 1.01).
'''
s=s.replace(old,new)
old=s[s.index("- **The half that hears the wave**"):s.index("  | after the codec | words wrong before | without")]
new='''- **The half that hears the wave**: `train codec --acoustic`. nano's codes come from the semantic half alone, which hears
  spectra without their mean. From the codec before nano's on, 1,850 steps (4.0 hours of speech, each at three speeds)
  taught it the same with that half and without:

'''
s=s.replace(old,new)
s=s.replace('''nano was made this way from 36 hours of synthetic speech in about ten hours on two CPU cores; its
[card]''','''nano was made this way from 37 hours of synthetic speech in about fifteen hours on two CPU cores; its
[card]''')
s=s.replace('''own likelihood alone, in half an hour on two cores: wrong words fell from 16.9 to 11.5 % in built-in voices and from 12.4
to 10.4 % after voice prompts (200 development sentences).''','''own likelihood alone, in half an hour on two cores: the first time, wrong words fell from 16.9 to 11.5 % in built-in
voices and from 12.4 to 10.4 % after voice prompts (200 development sentences).''')
open(p,'w').write(s)
